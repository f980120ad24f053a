"""The memory that is announced is about what a fit takes."""

import subprocess
import sys

import pytest

MEASURE = """
import re, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from tandem_defense.restoration import cost, native
from tandem_defense.restoration.engine import fit
from tandem_defense.restoration.reference import FitSettings, Task, dip1, dip2

kind, side = sys.argv[1], int(sys.argv[2])
prior = {"dip1": dip1(), "dip2": dip2(3, 4)}[kind]
settings = FitSettings(readouts=(2,), learning_rate=1e-3, smoothing=0)

def run(side):
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted anew
    image = torch.rand(3, side, side)
    list(fit(prior, [Task(image, 0, None if kind == "dip1" else image)], settings))
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

assert native.library()
before = run(64)
print((run(side) - before) * 1024, cost.memory(prior, side, side, torch.device("cpu")))
"""


@pytest.mark.parametrize("kind", ["dip1", "dip2"])
def test_memory_is_what_a_fit_takes(root, kind):
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, kind, "512"],
        cwd=root / "scripts",
        capture_output=True,
        text=True,
        check=True,
    )
    taken, announced = map(int, run.stdout.split())
    assert 0.8 < announced / taken < 1.5
