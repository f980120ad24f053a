"""The benchmark of restorations: every peer fits the same network, and the page has its numbers."""

import subprocess
import sys
from functools import partial

import pandas as pd
import pytest
import torch

from tandem_defense.restoration.reference import dip1, dip2


@pytest.fixture
def benchmark(root, monkeypatch):
    """The module performance/restoration.py."""
    monkeypatch.syspath_prepend(str(root / "performance"))
    import restoration

    return restoration


@pytest.mark.parametrize("name", ["public_loop", "vmap", "reference", "engine"])
@pytest.mark.parametrize("architecture", [dip1(0.1), dip2(3, 32)], ids=["dip1", "dip2"])
def test_peers_fit_the_same_network(benchmark, name, architecture):
    """After the first step all have the same image: that of the initial weights."""
    import peers

    work = benchmark.tasks(64, 2 if name == "vmap" else 1, torch.device("cpu"))
    if architecture.kind == "dip1":
        work = [benchmark.Task(task.target, task.seed) for task in work]
    chosen = peers.peers() | {"engine": partial(peers.fitted, batch=1)}
    looks = []
    # public_loop and vmap return their average, which is the first output after one step.
    once = chosen[name](architecture, work, (1, 1), lambda: looks.append(1))
    network, z, _ = peers.drawn(architecture, work[0])
    expected = network(z)[0]
    assert once.reshape(-1, 3, 64, 64)[0] == pytest.approx(expected.detach(), abs=1e-5)
    looks.clear()
    chosen[name](architecture, work, (1, 3), lambda: looks.append(1))
    assert len(looks) == 2


def test_a_run_adds_what_is_missing_and_nothing_else(root, tmp_path):
    output = tmp_path / "restoration.csv"
    command = [sys.executable, root / "performance/restoration.py", "--sizes", "64", "--turns", "1"]
    command += ["--seconds", "0", "--threads", "1", "--networks", "dip2", "--scales", "8"]
    command += ["--peers", "public_loop", "reference", "--output", output]
    subprocess.run(command, check=True, timeout=600)
    first = output.read_bytes()
    table = pd.read_csv(output)
    assert set(table["implementation"]) == {"public_loop", "reference", "engine"}
    assert (table["image_steps_per_second"] > 0).all() and (table["roof"] > 0).all()
    assert (table.query("implementation == 'engine'")["error"] < 0.05).all()
    subprocess.run(command, check=True, timeout=600)
    assert output.read_bytes() == first


def test_the_page_has_the_numbers_of_the_file(benchmark):
    inside = benchmark.pages.quoted(benchmark.PAGE, benchmark.OUTPUT)
    table = pd.read_csv(benchmark.OUTPUT)
    assert inside.strip() == benchmark.page(table).strip(), (
        "python performance/restoration.py --page"
    )
