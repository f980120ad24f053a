"""The benchmark of FUNN's training."""

import subprocess
import sys

import pandas as pd
import pytest


@pytest.fixture
def benchmark(root, monkeypatch):
    """The module performance/training.py."""
    monkeypatch.syspath_prepend(str(root / "performance"))
    import training

    return training


def test_a_run_has_both_implementations_in_both_stages(root, tmp_path):
    output = tmp_path / "training.csv"
    command = [sys.executable, root / "performance/training.py", "--batches", "1", "--rounds", "1"]
    subprocess.run([*command, "--output", output], check=True, timeout=600)
    table = pd.read_csv(output)
    assert set(zip(table["stage"], table["implementation"], strict=True)) == {
        (stage, name) for stage in (1, 2) for name in ("plain", "ours")
    }
    assert (table["seconds_per_epoch"] > 0).all()


def test_the_page_has_the_numbers_of_the_file(benchmark):
    text = benchmark.PAGE.read_text(encoding="utf-8")
    inside = text.split(benchmark.BEGIN)[1].split(benchmark.END)[0]
    assert inside == benchmark.page(pd.read_csv(benchmark.OUTPUT)), (
        "python performance/training.py --page"
    )
