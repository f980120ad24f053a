"""The attacks that change few pixels."""

import pytest
import torch
from attack_cases import CASES, close, equals_the_plain_loop, forward_passes, plain_loops
from torch import nn

from tandem_defense.attacks.pixel import LocalSearch, SinglePixel


@pytest.mark.parametrize(("name", "net"), plain_loops(SinglePixel, LocalSearch))
def test_equals_the_plain_loop(batch, name, net):
    equals_the_plain_loop(batch, name, net)


def test_pixel_attacks_change_few_pixels(batch):
    net, x, y = batch("rgb", misclassified=0)
    single = SinglePixel()(net, x, y)
    pixels = (single.images != x).any(1).flatten(1).sum(1)
    assert single.success.any() and torch.equal(pixels == 1, single.success)
    changed = single.images[single.images != x]
    assert ((changed == 0) | (changed == 1)).all()
    local = LocalSearch(t=2, rounds=3)(net, x, y)
    assert ((local.images != x).any(1).flatten(1).sum(1) <= 6).all()


def test_images_that_are_not_square(digits):
    torch.manual_seed(3)
    net = nn.Sequential(nn.Flatten(), nn.Linear(40, 4)).double().eval()
    x = torch.rand(4, 1, 5, 8).double()
    y = net(x).argmax(1)
    for name in ("SinglePixel", "LocalSearch"):
        attack, oracle = CASES[name]
        images = attack(net, x, y).images
        for i in range(4):
            z = oracle(net, x[i], y[i], i)
            close(images[i], x[i] if z is None else z)


def test_single_pixels_take_few_forward_passes(batch):
    net, x, y = batch(correct=1, misclassified=0)
    assert forward_passes(net, lambda: SinglePixel()(net, x, y)) < 15  # of 128 single pixels


def test_a_pixel_wraps_around_once():
    LocalSearch(r=2)
    with pytest.raises(ValueError, match="r: found 2.1, allowed is r ≤ 2"):
        LocalSearch(r=2.1)
