"""Every engine equals the plain loop, and a task depends on nothing but itself."""

import os
import subprocess
import sys
import threading
from contextlib import nullcontext

import pytest
import torch
from priors import ENGINES, PRIORS, apart, run, settings, tasks

from tandem_defense.restoration import engine, reference
from tandem_defense.restoration.reference import dip2


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("name", ENGINES)
def test_engines_equal_the_reference(name, prior):
    """In float64 to 1e-6 after 50 steps, at every read-out, for more images than threads."""
    architecture = PRIORS[prior]
    work = tasks(architecture, 3)
    expected = run(reference.fit, architecture, work, steps=(1, 20, 50))
    actual = run(ENGINES[name], architecture, work, steps=(1, 20, 50), batch=2)
    assert apart(actual, expected) < 1e-6
    losses = [float(expected[0, n][2]) for n in (1, 50)]
    assert losses[1] < losses[0]  # something was learned


@pytest.mark.parametrize("name", ENGINES)
def test_a_task_depends_on_nothing_but_itself(name):
    """Alone, in another order, in other batches: equal to 1e-6; compiled: to the last bit."""
    architecture, limit = PRIORS["dip2"], 0 if name == "native" else 1e-6
    work = tasks(architecture, 5)
    whole = run(ENGINES[name], architecture, work, steps=(20,), batch=3)
    for batch, order in ((1, [2]), (2, [4, 2, 0])):
        some = run(ENGINES[name], architecture, [work[i] for i in order], steps=(20,), batch=batch)
        expected = {(k, 20): whole[i, 20] for k, i in enumerate(order)}
        assert apart(some, expected) <= limit


def test_float32_is_ieee_s_while_a_fit_computes_and_the_caller_s_in_between():
    """Also where the caller has set PyTorch's newer switches, which the older ones cannot read."""
    modes = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)
    before, seen = [mode.fp32_precision for mode in modes], []

    def look(steps):
        seen.extend(mode.fp32_precision for mode in modes)

    work = tasks(PRIORS["dip2"], 1)
    try:
        for mine in (["tf32", "tf32"], ["ieee", "tf32"]):
            for mode, value in zip(modes, mine, strict=True):
                mode.fp32_precision = value
            for _ in engine.fit(
                PRIORS["dip2"], work, settings((1, 2)), engine="reference", progress=look
            ):
                assert [mode.fp32_precision for mode in modes] == mine
    finally:
        for mode, value in zip(modes, before, strict=True):
            mode.fp32_precision = value
    assert len(seen) == 8 and "tf32" not in seen


@pytest.mark.parametrize("name", ["fast", "reference"])
def test_a_caller_s_autocast_changes_nothing(name):
    work = tasks(PRIORS["dip2"], 1)
    how = {"steps": (5,), "precision": "float32", "engine": name}
    expected = run(engine.fit, PRIORS["dip2"], work, **how)
    with torch.autocast("cpu", torch.bfloat16):
        assert apart(run(engine.fit, PRIORS["dip2"], work, **how), expected) == 0


def test_threads_take_turns_on_gpus(monkeypatch):
    """Else the one that comes second would leave behind what the first has set."""
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    inside, leave = threading.Event(), threading.Event()

    def other():
        with engine._mode("float32", torch.device("cuda")):
            inside.set()
            leave.wait(60)

    thread = threading.Thread(target=other)
    with engine._mode("float32", torch.device("cuda")):
        thread.start()
        assert not inside.wait(0.5)
    leave.set()
    thread.join()
    assert inside.is_set() and not torch.backends.cudnn.benchmark


def test_no_tasks_no_readouts():
    assert list(engine.fit(dip2(3, 8), [], settings((1,)))) == []


@pytest.mark.parametrize(
    ("option", "why"),
    [
        ({"engine": "slow"}, "engine: found 'slow', allowed is one of fast, reference, triton"),
        ({"batch": 0}, "batch: found 0, allowed is a whole number ≥ 1 or null"),
    ],
)
def test_wrong_options_name_what_is_allowed(option, why):
    with pytest.raises(ValueError, match=why):
        list(engine.fit(dip2(3, 8), [], settings((1,)), **option))


WITHOUT_TRITON = """
import sys
sys.modules["triton"] = None
from priors import settings, tasks
from tandem_defense.restoration import engine
from tandem_defense.restoration.reference import dip2
prior = dip2(3, 32)
list(engine.fit(prior, tasks(prior, 1), settings((1,)), engine="triton"))
"""


def test_without_triton_the_error_says_what_to_install(root):
    paths = os.pathsep.join([str(root / "scripts"), str(root / "tests/support")])
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TRITON],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert "ImportError: the engine triton needs Triton" in done.stderr
    assert "pip install triton" in done.stderr
