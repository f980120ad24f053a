"""What the tests of everything that is trained share."""

from collections.abc import Callable

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import interpolate


def random(*shape: int, seed: int = 0) -> Tensor:
    """Uniform numbers in [0, 1)."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def smooth(count: int, channels: int = 1, side: int = 24) -> Tensor:
    """Generated images without fine texture, (N, C, side, side) in [0, 1]."""
    return interpolate(random(count, channels, 4, 4), (side, side), mode="bilinear")


def digits(side: int) -> tuple[Tensor, Tensor]:
    """1797 digits (N, 1, side, side) in [0, 1] with their labels."""
    data = load_digits()
    images = torch.from_numpy(data.images.astype("float32") / 16)[:, None]
    images = interpolate(images, (side, side), mode="bilinear", align_corners=False)
    return images, torch.from_numpy(data.target)


def check_seed_and_state(
    make: Callable[[], nn.Module], images: Tensor, labels: Tensor, **settings
) -> tuple[nn.Module, nn.Module]:
    """The seed alone decides the weights, fit leaves the global generator and ends in eval mode.

    Returns a trained module and another one with its state.
    """
    models = []
    for seed, disturbance in ((0, 3), (0, 4), (1, 3)):
        torch.manual_seed(disturbance)
        models.append(make())
        state = torch.get_rng_state()
        models[-1].fit(images, labels, seed=seed, **settings)
        assert torch.equal(torch.get_rng_state(), state)
        assert not models[-1].training
        assert all(p.requires_grad for p in models[-1].parameters())
    first, again, other = (dict(m.state_dict()) for m in models)
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not all(torch.equal(value, other[name]) for name, value in first.items())
    copy = make().eval()
    copy.load_state_dict(first)
    assert torch.equal(copy(images), models[0](images))
    return models[0], copy
