"""The engine of GPUs: too little memory, and on a GPU equal to the plain loop."""

import itertools
from dataclasses import replace

import pytest
import torch
from priors import PRIORS, apart, run, tasks

from tandem_defense.restoration import lanes, reference
from tandem_defense.restoration.reference import Task


def test_out_of_memory_halves_the_lanes_and_repeats_no_readout(monkeypatch):
    """The lanes shrink until they fit; what was read out is not read out again."""
    architecture = PRIORS["dip2"]
    work = tasks(architecture, 5)
    expected = run(lanes.fit, architecture, work, steps=(4, 8), batch=1)
    step, calls = lanes.Fit.step, itertools.count()

    def scarce(self):
        if self.network.lanes > 1 and next(calls) >= 6:
            raise torch.OutOfMemoryError("CUDA out of memory")
        step(self)

    monkeypatch.setattr(lanes.Fit, "step", scarce)
    assert apart(run(lanes.fit, architecture, work, steps=(4, 8), batch=4), expected) < 1e-6


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("prior", PRIORS)
def test_on_a_gpu_the_graph_of_a_step_equals_the_reference(prior):
    architecture = PRIORS[prior]
    work = tasks(architecture, 3)
    there = [
        Task(t.target.cuda(), t.seed, None if t.input is None else t.input.cuda()) for t in work
    ]
    expected = run(reference.fit, architecture, work, steps=(1, 50))
    actual = run(lanes.fit, architecture, there, steps=(1, 50), batch=2)
    actual = {key: tuple(x.cpu() for x in value) for key, value in actual.items()}
    assert apart(actual, expected) < 1e-6


def test_nan_in_a_lane_does_not_reach_the_next_image():
    """A lane whose image went wrong starts the next one clean."""
    architecture = PRIORS["dip2"]
    first, second = tasks(architecture, 2)
    broken = replace(first, target=torch.full_like(first.target, torch.nan))
    spoiled = run(lanes.fit, architecture, [broken, second], steps=(5,), batch=1)
    expected = run(lanes.fit, architecture, [second], steps=(5,), batch=1)
    assert spoiled[0, 5][1].isnan().all()
    assert apart({0: spoiled[1, 5]}, {0: expected[0, 5]}) < 1e-9
