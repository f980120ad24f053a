"""Early stopping: the variance of the last outputs, and what engines make of it."""

from dataclasses import replace

import pytest
import torch
from priors import ENGINES, PRIORS, photos, tasks

from tandem_defense.restoration import reference
from tandem_defense.restoration.reference import FitSettings, Task
from tandem_defense.restoration.stopping import EarlyStopping, HeldOut, VarianceMonitor


def test_the_variance_is_the_window_s():
    """Against the definition: variances of the last outputs, the average where they are least."""
    rng = torch.Generator().manual_seed(0)
    outputs = torch.rand(30, 2, 3, 4, 4, generator=rng)
    outputs[10:15] = outputs[10] + 0.01 * outputs[10:15]  # five steady ones
    monitor = VarianceMonitor(EarlyStopping(4, 9), outputs[0].shape, outputs.device)
    stopped_at = [0, 0]
    for i, output in enumerate(outputs, 1):
        before = monitor.stopped.clone()
        monitor.update(output, output + i)
        for lane in range(2):
            if monitor.stopped[lane] and not before[lane]:
                stopped_at[lane] = i
    variances = [outputs[i - 4 : i].var(0, correction=0).sum((1, 2, 3)) for i in range(4, 31)]
    best = torch.stack(variances).argmin(0) + 4
    assert monitor.best_iteration.tolist() == best.tolist() and set(best.tolist()) <= {14, 15}
    assert stopped_at == [n + 9 for n in best.tolist()]
    for lane, n in enumerate(best.tolist()):
        assert torch.equal(monitor.best[lane], outputs[n - 1, lane] + n)


@pytest.mark.parametrize("name", ENGINES)
def test_stopped_images_make_room_and_keep_their_result(name):
    """Every engine stops where the reference stops; later read-outs repeat the result."""
    architecture, rule = PRIORS["dip2"], EarlyStopping(3, 4)
    work = tasks(architecture, 5)
    steps = (10, 40, 80)
    settings = FitSettings(
        readouts=steps, learning_rate=0.05, smoothing=0.5, stop=rule, precision="float64"
    )
    plain, fast = {}, {}
    taken = []
    for fit, actual in ((reference.fit, plain), (ENGINES[name], fast)):
        extra = {} if fit is reference.fit else {"batch": 2}
        counted = []
        for read in fit(architecture, work, settings, progress=counted.append, **extra):
            for i, position in enumerate(read.positions):
                actual[position, read.iteration] = int(read.stopped[i]), read.average[i]
        taken.append(sum(counted))
    assert set(plain) == set(fast) == {(i, n) for i in range(5) for n in steps}
    assert taken[0] < 5 * 80  # some stopped
    stopped = [plain[i, 80][0] for i in range(5)]
    assert any(stopped)
    for key, (iteration, average) in plain.items():
        assert fast[key][0] == iteration
        assert (fast[key][1] - average).abs().max() < 1e-6
    for i in range(5):
        if 0 < stopped[i] < 30:
            assert torch.equal(fast[i, 40][1], fast[i, 80][1])
    if name == "native":
        assert taken[0] == taken[1]


@pytest.mark.parametrize(("window", "patience"), [(0, 4), (3, 0)])
def test_a_window_and_a_patience_are_at_least_one_step(window, patience):
    with pytest.raises(ValueError, match="found 0, allowed is a whole number ≥ 1"):
        EarlyStopping(window, patience)


# --- by pixels that the fit does not see ---


def held(share: float, patience: int, steps: tuple[int, ...], rate: float = 0.02) -> FitSettings:
    return FitSettings(
        readouts=steps,
        learning_rate=rate,
        smoothing=0.5,
        stop=HeldOut(share, patience),
        precision="float64",
    )


def test_held_out_pixels_are_an_image_s_own_and_the_others_count_one_on_average():
    rule, (first, second) = HeldOut(0.1, 5), photos(2)
    weight = rule.weight(first, 3)
    assert weight.shape == (1, 65, 72) and weight.mean() == pytest.approx(1)
    assert int((weight == 0).sum()) == 468 and len(weight.unique()) == 2
    assert torch.equal(weight, rule.weight(second, 3))
    assert not torch.equal(weight, rule.weight(first, 4))


def test_the_fit_does_not_see_them():
    """What they are in the target changes nothing until it stops; what the others are does."""
    (task,) = tasks(PRIORS["dip2"], 1)
    hidden = HeldOut(0.2, 50).weight(task.target, task.seed) == 0
    images = {}
    for name, changed in (("none", hidden & ~hidden), ("held", hidden), ("seen", ~hidden)):
        other = replace(task, target=torch.where(changed, 1 - task.target, task.target))
        (read,) = reference.fit(PRIORS["dip2"], [other], held(0.2, 50, (20,)))
        images[name] = read.output
    assert torch.equal(images["held"], images["none"])
    assert not torch.allclose(images["seen"], images["none"])


def test_it_takes_the_average_with_the_smallest_error_there():
    """Against the definition, on noise, which nothing can learn from other pixels."""
    noise = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(2)).double()
    task, rule = Task(0.5 + 0.3 * (noise - 0.5), 7), HeldOut(0.3, 6)
    every = tuple(range(1, 81))
    reads = list(reference.fit(PRIORS["dip2"], [task], held(0.3, 6, every)))
    stopped = int(reads[-1].stopped[0])
    free = list(reference.fit(PRIORS["dip2"], [task], held(0.3, 1000, every)))
    hidden = rule.weight(task.target, task.seed) == 0
    error = [float(((r.average - task.target).square() * hidden).sum()) for r in free]
    first = next(i for i in range(len(error)) if min(error[: i + 1]) < min(error[i + 1 : i + 7]))
    assert stopped == error.index(min(error[: first + 7])) + 1 < 74
    assert (reads[-1].average - free[stopped - 1].average).abs().max() < 1e-6


@pytest.mark.parametrize("name", ENGINES)
def test_engines_hold_out_and_stop_as_the_reference(name):
    rng = torch.Generator().manual_seed(5)
    work = [
        replace(t, target=(t.target + 0.2 * torch.rand(3, 65, 72, generator=rng)).clamp(0, 1))
        for t in tasks(PRIORS["dip2"], 4)
    ]
    steps, how = (5, 30, 120), held(0.2, 5, (5, 30, 120), 0.05)
    plain, fast = ({}, {})
    for fit, found in ((reference.fit, plain), (ENGINES[name], fast)):
        extra = {} if fit is reference.fit else {"batch": 3}
        for read in fit(PRIORS["dip2"], work, how, **extra):
            for i, position in enumerate(read.positions):
                found[position, read.iteration] = (
                    int(read.stopped[i]),
                    read.average[i],
                    read.loss[i],
                )
    assert set(plain) == set(fast) == {(i, n) for i in range(4) for n in steps}
    assert any(plain[i, 120][0] for i in range(4))
    for key, (iteration, average, loss) in plain.items():
        assert fast[key][0] == iteration
        assert (fast[key][1] - average).abs().max() < 1e-6
        assert abs(fast[key][2] - loss) < 1e-6


@pytest.mark.parametrize(
    ("share", "patience", "why"),
    [(0, 4, "share: found 0"), (0.6, 4, "share: found 0.6"), (0.1, 0, "patience: found 0")],
)
def test_a_share_leaves_pixels_on_both_sides(share, patience, why):
    with pytest.raises(ValueError, match=why):
        HeldOut(share, patience)
