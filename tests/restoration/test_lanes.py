"""The engine of GPUs: too little memory, and on a GPU equal to the plain loop."""

import itertools
from dataclasses import replace

import pytest
import torch
from priors import PRIORS, apart, run, settings, tasks

from tandem_defense.restoration import capacity, engine, lanes, reference
from tandem_defense.restoration.reference import Task


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        torch.AcceleratorError("CUDA error: out of memory"),
        RuntimeError("GET was unable to find an engine to execute this computation"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
    ids=["allocator", "capture", "cuDNN", "cuBLAS"],
)
def test_out_of_memory_halves_the_lanes_and_repeats_no_readout(monkeypatch, error):
    """The lanes shrink until they fit; what was read out is not read out again."""
    architecture = PRIORS["dip2"]
    work = tasks(architecture, 5)
    expected = run(lanes.fit, architecture, work, steps=(2, 4), batch=1)
    step, calls = lanes.Fit.step, itertools.count()

    def scarce(self):
        if self.network.lanes > 1 and next(calls) >= 3:
            raise error
        step(self)

    monkeypatch.setattr(lanes.Fit, "step", scarce)
    assert apart(run(lanes.fit, architecture, work, steps=(2, 4), batch=4), expected) < 1e-6


def test_any_other_error_is_the_caller_s(monkeypatch):
    def broken(self):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(lanes.Fit, "step", broken)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        run(lanes.fit, PRIORS["dip2"], tasks(PRIORS["dip2"], 2), steps=(1,), batch=2)


@pytest.mark.parametrize(
    ("images", "most", "used"),
    [(125, 64, 63), (50, 64, 50), (125, 50, 42), (1, 64, 1), (65, 64, 33)],
)
def test_the_last_round_is_as_full_as_the_first(images, most, used):
    assert capacity.balanced(images, most) == used


def test_a_checkpoint_of_all_lanes_fits_the_cpu_s_memory(monkeypatch):
    """The state of an image, and early stopping's window, decide how many lanes."""
    architecture = PRIORS["dip2"]
    image = tasks(architecture, 1)[0].target

    def build(count):
        return lanes.Fit(architecture, count, image, settings((1,), precision="float32"))

    state = sum(value.nbytes for value in build(1).save(0).values())
    monkeypatch.setattr(capacity, "free_memory", lambda device: int(6.5 * state))
    assert capacity.most_lanes(build, image, images=0) == 3
    assert capacity.most_lanes(build, image, images=106) < 3


def test_random_numbers_are_drawn_once_each_and_before_a_lane_is_free(monkeypatch):
    architecture, drawn, first = PRIORS["dip2"], [], []

    def draw(architecture, task):
        drawn.append(task.seed)
        return reference.draw(architecture, task)

    monkeypatch.setattr(lanes, "draw", draw)
    work = tasks(architecture, 5)
    for _ in lanes.fit(architecture, work, settings((20,)), batch=2):
        first.append(len(drawn))
    assert first[0] > 2
    assert sorted(drawn) == sorted(task.seed for task in work)


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


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA GPUs")
def test_every_gpu_of_a_process_captures_its_own_steps():
    expected = run(lanes.fit, PRIORS["dip2"], tasks(PRIORS["dip2"], 1), steps=(5,))
    for device in ("cuda:0", "cuda:1"):
        there = [replace(t, target=t.target.to(device)) for t in tasks(PRIORS["dip2"], 1)]
        actual = run(engine.fit, PRIORS["dip2"], there, steps=(5,))
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
