"""FGSM and the gradient attack: fixed steps and line searches."""

import pytest
import torch
from attack_cases import close, equals_the_plain_loop, forward_passes, plain_loops
from attack_oracles import line
from torch import nn

from tandem_defense.attacks.gradient import FGSM, Gradient


@pytest.mark.parametrize(("name", "net"), plain_loops(FGSM, Gradient))
def test_equals_the_plain_loop(batch, name, net):
    equals_the_plain_loop(batch, name, net)


class Band(nn.Module):
    """Class 1 where the mean is between 0.46 and 0.66, class 0 on both sides."""

    def forward(self, x):
        mean = x.flatten(1).mean(1)
        return torch.stack([0 * mean, 0.1 - (mean - 0.56).abs()], 1)


def test_a_line_without_success_is_searched_once_more():
    """Foolbox 2's second pass runs then too, and finds what lay between the sizes of the first."""
    net, x, y = Band().eval(), torch.full((1, 1, 8, 8), 0.4).double(), torch.tensor([0])
    result = FGSM(epsilon=0.5, line_steps=1)(net, x, y)
    close(result.images[0], line(net, x[0], y[0], torch.sign, 0.5, 1))
    assert result.success.all() and abs(result.linf.item() - 0.075) < 1e-6


def test_a_line_takes_few_forward_passes(batch):
    net, x, y = batch(correct=1, misclassified=0)
    calls = forward_passes(net, lambda: FGSM(epsilon=0.005)(net, x, y))
    assert calls < 15  # of 1020 sizes
