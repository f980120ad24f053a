"""What a quick start changes in a process, and what not."""

import subprocess
import sys
from importlib.util import find_spec

import pytest

COUNTED = """
import gc
seen = []
gc.callbacks.append(lambda phase, info: seen.append(phase))
"""


def run(root, code: str) -> str:
    """What a new process prints; nothing on its standard error."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(root / "scripts"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


def test_nothing_is_collected_while_imports_come(root):
    slow = run(root, COUNTED + "import pandas\nprint(len(seen) > 0)")
    assert slow == "True"  # else the next line would say nothing
    quick = """
from tandem_defense.startup import quick_start
with quick_start():
    seen.clear()
    import pandas
print(seen, gc.isenabled(), gc.get_freeze_count() > 10_000)
garbage = [[] for _ in range(10_000)]
print(len(seen) > 0)
"""
    assert run(root, COUNTED + quick).split("\n") == ["[] True True", "True"]


def test_an_import_that_fails_leaves_the_collector_on(root):
    code = """
import gc
from tandem_defense.startup import quick_start
try:
    with quick_start():
        import no_such_module
except ModuleNotFoundError:
    print(gc.isenabled())
"""
    assert run(root, code) == "True"


def test_whoever_has_switched_it_off_finds_it_off(root):
    code = """
import gc
from tandem_defense.startup import quick_start
gc.disable()
with quick_start():
    pass
print(gc.isenabled())
"""
    assert run(root, code) == "False"


def test_a_process_that_has_pytorch_stays_as_it_is(root):
    code = """
import gc
import torch
from tandem_defense.startup import quick_start
with quick_start():
    print(gc.isenabled())
print(gc.get_freeze_count())
"""
    assert run(root, code).split("\n") == ["True", "0"]


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton comes with PyTorch for Linux")
def test_triton_finds_nothing_to_complain_of(root):
    code = """
from tandem_defense.startup import quick_start
with quick_start():
    import triton
"""
    run(root, code)
