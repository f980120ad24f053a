"""Coarse to fine: what a fit at half the resolution hands over, alike in all engines."""

import weakref

import pytest
import torch
from priors import ENGINES, PRIORS, photos, settings, tasks

from tandem_defense.pipeline import checkpoint
from tandem_defense.restoration import coarse, engine, lanes, reference
from tandem_defense.restoration.reference import FitSettings, Task, dip2
from tandem_defense.restoration.stopping import EarlyStopping

SIZE = (131, 144)
STEPS = (4, 10, 16, 30)


def fitted(fit, work, steps=STEPS, first=10, architecture=PRIORS["dip2"], **options) -> dict:
    """{(position, iteration): (output, average)}."""
    how = FitSettings(
        readouts=steps, learning_rate=1e-3, smoothing=0.9, precision="float64", coarse=first
    )
    return {
        (i, read.iteration): (read.output[k], read.average[k])
        for read in fit(architecture, work, how, **options)
        for k, i in enumerate(read.positions)
    }


def apart(one: dict, other: dict) -> float:
    assert one.keys() == other.keys()
    return max(
        float((a - b).abs().max()) for k in one for a, b in zip(one[k], other[k], strict=True)
    )


def test_halving_and_enlarging_keep_the_mean_and_the_size():
    (image,) = photos(1, *SIZE)
    half = coarse.halve(image)
    assert half.shape == (3, 65, 72)
    assert torch.equal(
        coarse.halve(image[:, :130]), torch.nn.functional.avg_pool2d(image[:, :130], 2)
    )
    whole = coarse.enlarge(half, SIZE)
    assert whole.shape == image.shape and (whole - image).abs().mean() < 0.02
    assert coarse.enlarge(image, SIZE) is image
    assert coarse.enlarge(half[None], SIZE).shape == (1, 3, *SIZE)


def test_the_first_steps_are_those_of_the_half_image_and_its_weights_go_on():
    """By the definition: a fit of the half image, and PyTorch's layers from its weights on."""
    architecture = PRIORS["dip2"]
    (task,) = tasks(architecture, 1, *SIZE)
    actual = fitted(reference.fit, [task], (10, 11))
    parameters, z = reference.draw(architecture, task)
    small = Task(coarse.halve(task.target), task.seed, coarse.halve(z.double()))
    (alone,) = reference.fit(architecture, [small], settings((10,)))
    assert (coarse.enlarge(alone.average, SIZE) - actual[0, 10][1]).abs().max() < 1e-12
    network = reference.build(architecture)
    torch.nn.utils.vector_to_parameters(parameters, network.parameters())
    network.double()
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    for _ in range(10):
        optimizer.zero_grad()
        (network(small.input[None]) - small.target).square().mean().backward()
        optimizer.step()
    output = network(z.double()[None])[0].detach()
    assert (output - actual[0, 11][0]).abs().max() < 1e-9
    average = 0.9 * actual[0, 10][1] + 0.1 * output
    assert (average - actual[0, 11][1]).abs().max() < 1e-9


@pytest.mark.parametrize("name", ENGINES)
def test_engines_equal_the_reference(name):
    """At read-outs before, at and after the change of resolution, for more images than lanes."""
    work = tasks(PRIORS["dip2"], 3, *SIZE)
    expected = fitted(reference.fit, work)
    assert apart(fitted(ENGINES[name], work, batch=2), expected) < 1e-6
    plain = fitted(ENGINES[name], work, first=0, batch=2)
    assert apart(plain, expected) > 1e-2  # it does something
    short = {k: v for k, v in expected.items() if k[1] == 4}
    assert apart(fitted(ENGINES[name], work, (4,), batch=2), short) < 1e-6  # coarse alone


class Killed(Exception):
    pass


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("at", [10, 30])
def test_a_killed_fit_goes_on_in_either_part(name, at, tmp_path, monkeypatch):
    """Killed at a read-out; what was read by then and what is read later is the whole."""
    work = tasks(PRIORS["dip2"], 3, *SIZE)
    expected = fitted(ENGINES[name], work)
    monkeypatch.setattr(checkpoint, "INTERVAL", 0)
    monkeypatch.setattr(checkpoint, "SHARE", 1e9)  # whenever it can
    path, found, counted = tmp_path / "checkpoint", {}, []

    def taken(fit, architecture, work, how, **options):
        for read in fit(architecture, work, how, **options):
            for k, i in enumerate(read.positions):
                found[i, read.iteration] = (read.output[k], read.average[k])
            # A checkpoint has all lanes; where one thread is far ahead, there is none yet.
            if read.iteration >= at and path.exists() and not counted:
                raise Killed
            yield read

    with pytest.raises(Killed), checkpoint.kept(path, {}):
        for _ in taken(ENGINES[name], PRIORS["dip2"], work, how(), batch=2):
            pass
    counted.append(0)
    with checkpoint.kept(path, {}):
        for _ in taken(
            ENGINES[name], PRIORS["dip2"], work, how(), batch=2, progress=counted.append
        ):
            pass
    assert counted[1] > 0 and sum(counted) == 3 * 30  # what was done is not done again
    assert apart(found, expected) < 1e-9


def how() -> FitSettings:
    return FitSettings(
        readouts=STEPS, learning_rate=1e-3, smoothing=0.9, precision="float64", coarse=10
    )


def test_the_network_of_the_coarse_steps_is_gone_when_the_whole_one_comes():
    """So that a GPU's memory holds one of them at a time."""
    alive = []

    class Fit(lanes.Fit):
        def __init__(self, *arguments):
            assert not any(other() for other in alive)
            alive.append(weakref.ref(self))
            super().__init__(*arguments)

    fitted(lanes.fit, tasks(PRIORS["dip2"], 2, *SIZE), (14,), batch=2, kind=Fit)
    assert len(alive) == 2


@pytest.mark.parametrize("name", ["fast", "reference"])
def test_small_images_are_refused(name):
    with pytest.raises(ValueError, match="at least 128 × 128 pixels, found 65 × 144: set coarse"):
        list(engine.fit(dip2(3, 32), tasks(dip2(3, 32), 1, 65, 144), how(), engine=name))


def test_what_does_not_go_together_is_refused():
    with pytest.raises(ValueError, match="coarse: found 5 beside early stopping"):
        FitSettings(readouts=(9,), learning_rate=1, smoothing=0, coarse=5, stop=EarlyStopping(3, 3))
    with pytest.raises(ValueError, match="triton has neither coarse steps"):
        list(engine.fit(dip2(3, 32), tasks(dip2(3, 32), 1, *SIZE), how(), engine="triton"))
