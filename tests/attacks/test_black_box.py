"""Noise and Square: their bounds, their budget, and that each image is attacked alone."""

import pytest
import torch
from attack_cases import close, forward_passes

from tandem_defense.attacks.black_box import Noise, Square
from tandem_defense.attacks.iterative import PGD

EVERY = pytest.mark.parametrize(
    "attack",
    [
        Noise(epsilon=0.1),
        Square(epsilon=0.1, queries=12),
        PGD(semantics="fixed", epsilon=0.1, steps=3, restarts=3),
    ],
    ids=lambda attack: type(attack).__name__,
)


@EVERY
def test_batch_mates_do_not_matter(batch, attack):
    net, x, y = batch(correct=4, misclassified=0)
    seeds = [7, 8, 9, 10]
    together = attack(net, x, y, seeds).images
    close(together, attack(net, x.flip(0), y.flip(0), seeds[::-1]).images.flip(0))
    alone = [attack(net, x[i : i + 1], y[i : i + 1], seeds[i : i + 1]).images for i in range(4)]
    close(together, torch.cat(alone), 1e-6)
    assert not torch.equal(together, attack(net, x, y, [1, 2, 3, 4]).images)


@EVERY
def test_images_stay_in_the_ball_and_the_box(batch, attack):
    net, x, y = batch(correct=4, misclassified=0)
    result = attack(net, x, y)
    assert 0.05 < result.linf.max() <= 0.1 + 1e-6
    assert result.images.min() >= 0 and result.images.max() <= 1


def test_square_spends_its_queries_on_squares_and_never_raises_the_margin(batch):
    net, x, y = batch(correct=4, misclassified=0)
    few, many = Square(epsilon=0.1, queries=5), Square(epsilon=0.1, queries=40)
    spent = [forward_passes(net, lambda a=a: a.run(net, x, y, [1] * 4)) for a in (few, many)]
    assert spent == [5, 40]

    def margins(images):
        logits = net(images)
        own = logits.gather(1, y[:, None])
        return (own - logits.scatter(1, y[:, None], -torch.inf).amax(1, True)).squeeze(1)

    start = Square(epsilon=0.1, queries=1).run(net, x, y, [1] * 4)
    assert (margins(many.run(net, x, y, [1] * 4)) <= margins(start) + 1e-6).all()
    # the authors' schedule: 80 % of the image at first, halved nine times
    sides = [Square(queries=10_000).side(q, 100, 100) for q in (1, 11, 51, 8001)]
    assert sides == [89, 63, 45, 4]
