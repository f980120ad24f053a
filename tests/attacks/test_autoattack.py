"""AutoAttack through its authors' package: exact where the answer is known, an image at a time."""

import pytest
import torch
from torch import nn

from tandem_defense.attacks.autoattack import AutoAttack

DUAL = {"linf": 1, "l2": 2}  # the norm of a gradient that goes with a bound's


@pytest.fixture
def linear():
    """A linear classifier of 8 × 8 images with five classes."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))
    with torch.no_grad():
        net[1].weight.copy_(torch.randn(5, 64, generator=torch.Generator().manual_seed(0)))
        net[1].bias.zero_()
    return net


@pytest.fixture
def images():
    """Gray enough that no bound of the tests leaves [0, 1]."""
    return 0.4 + 0.2 * torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def radius(net, image, label, norm):
    """The distance to the nearest other class of a linear classifier."""
    weight, logits = net[1].weight, net(image[None])[0]
    others = [k for k in range(5) if k != label]
    dual = {"linf": 1, "l2": 2}[norm]
    return min(
        float((logits[label] - logits[k]) / (weight[label] - weight[k]).norm(dual)) for k in others
    )


@pytest.mark.parametrize("norm", DUAL)
def test_it_fools_whatever_can_be_fooled_and_nothing_else(norm, linear, images):
    """A bound just above the distance to another class, and one just below."""
    labels = linear(images).argmax(1)
    for image, label in zip(images[:2], labels[:2], strict=True):
        r = radius(linear, image, int(label), norm)
        above = AutoAttack(norm=norm, epsilon=1.02 * r)(linear, image[None], label[None])
        assert above.success.all()
        size = above.linf if norm == "linf" else above.l2
        assert r * 0.999 <= float(size) <= 1.02 * r + 1e-6
    below = AutoAttack(norm=norm, epsilon=0.98 * r)(linear, image[None], label[None])
    assert not below.success.any() and torch.equal(below.images, image[None])


def test_an_image_does_not_depend_on_its_batch_nor_on_the_global_generator(linear, images):
    labels = linear(images).argmax(1)
    epsilon = 1.5 * max(
        radius(linear, x, int(y), "linf") for x, y in zip(images, labels, strict=True)
    )
    attack = AutoAttack(epsilon=epsilon)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    whole = attack(linear, images, labels, seeds=range(6))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert whole.success.all()
    torch.manual_seed(6)
    part = attack(linear, images[[4, 2]], labels[[4, 2]], seeds=[4, 2])
    assert torch.equal(part.images, whole.images[[4, 2]])


def test_too_few_classes_are_an_error(images):
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    with pytest.raises(ValueError, match="at least 4 classes, found 3: take pgd"):
        AutoAttack()(net, images, net(images).argmax(1))
