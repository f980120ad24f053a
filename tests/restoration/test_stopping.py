"""Early stopping: the variance of the last outputs, and what engines make of it."""

import pytest
import torch
from priors import ENGINES, PRIORS, tasks

from tandem_defense.restoration import reference
from tandem_defense.restoration.reference import FitSettings
from tandem_defense.restoration.stopping import EarlyStopping, Monitor


def test_the_variance_is_the_window_s():
    """Against the definition: variances of the last outputs, the average where they are least."""
    rng = torch.Generator().manual_seed(0)
    outputs = torch.rand(30, 2, 3, 4, 4, generator=rng)
    outputs[10:15] = outputs[10] + 0.01 * outputs[10:15]  # five steady ones
    monitor = Monitor(EarlyStopping(4, 9), outputs[0].shape, outputs.device)
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
