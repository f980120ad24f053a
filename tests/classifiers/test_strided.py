"""Convolutions of stride 2 are PyTorch's, forward and backward."""

import pytest
import torch

from tandem_defense.classifiers.strided import Enlarge, Shrink


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 3), (7, 7), (14, 9)])
def test_strided_layers_are_pytorchs(height, width):
    """Values and all three gradients in float64, for even, odd and smallest sides."""
    small = ((height + 1) // 2, (width + 1) // 2)
    shrink, plain_shrink = Shrink(3, 5).double(), torch.nn.Conv2d(3, 5, 3, 2, 1).double()
    plain_shrink.load_state_dict(shrink.state_dict())
    pairs = [(shrink, plain_shrink, (4, 3, height, width))]
    for extra in (0, 1):
        enlarge = Enlarge(3, 5, extra).double()
        plain = torch.nn.ConvTranspose2d(3, 5, 3, 2, 1, extra).double()
        plain.load_state_dict(enlarge.state_dict())
        pairs.append((enlarge, plain, (4, 3, *small)))
    for ours, plain, shape in pairs:
        results = []
        for layer in (ours, plain):
            x = numbers(shape).requires_grad_()
            y = layer(x)
            wanted = [x, *layer.parameters()]
            results.append((y, *torch.autograd.grad(y, wanted, numbers(y.shape))))
        for a, b in zip(*results, strict=True):
            assert a.shape == b.shape
            assert torch.allclose(a, b, rtol=0, atol=1e-12)


def numbers(shape):
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_only_wanted_gradients():
    """A frozen layer still passes gradients on; an input without gradient needs none back."""
    for layer, shape in ((Shrink(2, 3), (1, 2, 6, 6)), (Enlarge(2, 3, 1), (1, 2, 3, 3))):
        x = torch.rand(shape)
        layer(x).sum().backward()
        assert layer.weight.grad is not None and x.grad is None
        layer.zero_grad()
        layer.requires_grad_(False)
        x.requires_grad_()
        layer(x).sum().backward()
        assert layer.weight.grad is None and x.grad.shape == x.shape
