"""Projected gradient descent in L2."""

import pytest
from attack_cases import equals_the_plain_loop, plain_loops

from tandem_defense.attacks.pgd_l2 import PGDL2


@pytest.mark.parametrize(("name", "net"), plain_loops(PGDL2))
def test_equals_the_plain_loop(batch, name, net):
    equals_the_plain_loop(batch, name, net)


def test_starts_fill_the_ball(batch):
    """Uniform in the ball of 64 dimensions: nearly all points are near its surface."""
    _, x, _ = batch(correct=4, misclassified=0)
    attack = PGDL2(epsilon=0.5)
    lengths = (attack.start(x, [1, 2, 3, 4]) - x).flatten(1).norm(dim=1)
    assert lengths.max() <= 0.5 and lengths.min() > 0.5 * 0.01 ** (1 / 64)
    assert len(lengths.unique()) == 4


def test_the_ball_bounds_and_more_fools_more(batch):
    net, x, y = batch(correct=8, misclassified=0)
    near, far = (PGDL2(epsilon=e, steps=20, restarts=2)(net, x, y) for e in (0.1, 1.5))
    for result, epsilon in ((near, 0.1), (far, 1.5)):
        assert 0 < result.l2.max() <= epsilon + 1e-6
        assert result.images.min() >= 0 and result.images.max() <= 1
    assert far.success.sum() > near.success.sum()
