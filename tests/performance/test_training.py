"""The benchmarks of training: FUNN's beside a plain loop, and of precisions."""

import importlib
import subprocess
import sys

import pandas as pd
import pytest


@pytest.fixture(params=["training", "precision"])
def benchmark(request, root, monkeypatch):
    """The modules performance/training.py and performance/precision.py."""
    monkeypatch.syspath_prepend(str(root / "performance"))
    return importlib.import_module(request.param)


def run(root, tmp_path, script, *options) -> pd.DataFrame:
    """What the benchmark writes."""
    output = tmp_path / "written.csv"
    command = [sys.executable, root / "performance" / script, "--rounds", "1", "--output", output]
    subprocess.run([*command, *options], check=True, timeout=600)
    return pd.read_csv(output)


def test_a_run_has_both_implementations_in_both_stages(root, tmp_path):
    table = run(root, tmp_path, "training.py", "--batches", "1")
    assert set(zip(table["stage"], table["implementation"], strict=True)) == {
        (stage, name) for stage in (1, 2) for name in ("plain", "ours")
    }
    assert (table["seconds_per_epoch"] > 0).all()


def test_a_run_has_both_precisions(root, tmp_path):
    # Few images: a processor without units for bfloat16 is many times slower with it.
    table = run(root, tmp_path, "precision.py", "--defenses", "ComDefend", "--images", "8")
    assert table["precision"].tolist() == ["float32", "bf16"]
    assert (table["seconds_per_image"] > 0).all()


def test_the_page_has_the_numbers_of_the_file(benchmark):
    inside = benchmark.pages.quoted(benchmark.PAGE, benchmark.OUTPUT)
    assert inside == benchmark.page(pd.read_csv(benchmark.OUTPUT)), (
        f"python {benchmark.__file__} --page"
    )
