"""The attack of Carlini and Wagner."""

import pytest
import torch
from attack_cases import CW, equals_the_plain_loop, plain_loops
from attack_oracles import carlini_wagner, fooled
from torch import nn

from tandem_defense.attacks.carlini_wagner import CarliniWagnerL2


@pytest.mark.parametrize(("name", "net"), plain_loops(CarliniWagnerL2))
def test_equals_the_plain_loop(batch, name, net):
    equals_the_plain_loop(batch, name, net)


class FallsOffACliff(nn.Module):
    """Class 0 unless the image is nearly black; flat everywhere, so no gradient attack succeeds."""

    def forward(self, x):
        bright = (x.flatten(1).sum(1) > 0.5).to(x.dtype)
        return torch.stack([bright, torch.full_like(bright, 0.5)], 1) + 0 * x.flatten(1)[:, :1]


def test_carlini_wagner_is_never_black():
    """Foolbox returns a black image where it fails, and black may be misclassified."""
    net, x = FallsOffACliff().eval(), torch.rand(3, 1, 8, 8).double() / 2 + 0.5
    y = torch.zeros(3, dtype=torch.long)
    theirs = carlini_wagner(net, x[0], y[0], keep_black=True, **CW)
    assert (theirs == 0).all() and fooled(net, theirs, y[0])
    result = CarliniWagnerL2(**CW)(net, x, y)
    assert torch.equal(result.images, x) and not result.success.any()
