"""The related work's cheap defenses: what they keep, what they remove, and an image at a time."""

import pytest
import torch
from refusals import check_settings

from tandem_defense.defenses.base import NoGradient
from tandem_defense.defenses.comdefend import ComDefend
from tandem_defense.defenses.dip import DIP, TandemDIP
from tandem_defense.defenses.dipdefend import DIPDefend
from tandem_defense.defenses.related import RandomResizePad, TensorShield, TotalVariation
from tandem_defense.threats.base import random

ALL = [RandomResizePad(), TensorShield(ranks=(6, 5)), TotalVariation()]


@pytest.fixture
def images():
    """Smooth pictures (4, 3, 32, 40) with noise."""
    source = torch.Generator().manual_seed(0)
    small = torch.rand(4, 3, 4, 5, generator=source)
    smooth = torch.nn.functional.interpolate(small, (32, 40), mode="bicubic").clamp(0.1, 0.9)
    return smooth + 0.05 * (2 * torch.rand(smooth.shape, generator=source) - 1)


@pytest.mark.parametrize("defense", ALL, ids=lambda d: type(d).__name__)
def test_an_image_does_not_depend_on_its_batch(defense, images):
    ids = ["a", "b", "c", "d"]
    whole = defense(images, ids)
    assert whole.shape == images.shape and whole.dtype == images.dtype
    assert whole.min() >= 0 and whole.max() <= 1 and not torch.equal(whole, images)
    assert torch.equal(whole[[2, 0]], defense(images[[2, 0]], ["c", "a"]))


DRAWING = {
    "dip": DIP(iterations=3, feature_scale=32),
    "held out": DIP(iterations=3, feature_scale=32, stop_held_out=0.1),
    "window": DIP(iterations=5, feature_scale=32, stop_window=2, stop_patience=1),
    "bf16": DIP(iterations=3, feature_scale=32, precision="bf16"),
    "reference": DIP(iterations=3, feature_scale=32, engine="reference"),
    "tandem": TandemDIP(
        iterations=3, feature_scale=32, first_iterations=(2,), first_width=0.125, coarse=2
    ),
    "dipdefend": DIPDefend(iterations=3),
    "comdefend": ComDefend(compression=(4,), reconstruction=(4,)),
    "padding": RandomResizePad(),
}


@pytest.mark.parametrize("name", DRAWING)
def test_pytorch_s_defaults_change_nothing_that_is_drawn(name):
    """Neither the default type nor the default device, here one without any numbers."""
    defense = DRAWING[name]
    images = torch.rand(2, 3, 128, 130, generator=torch.Generator().manual_seed(0))
    expected = defense(images)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            assert torch.equal(defense(images), expected)
    finally:
        torch.set_default_dtype(before)


def test_padding_is_random_per_image_and_seed(images):
    same = images[:1].expand(4, -1, -1, -1)
    ids = ["a", "b", "c", "d"]
    made = RandomResizePad(larger=1.5)(same, ids)
    assert all(not torch.equal(made[0], other) for other in made[1:])
    assert not torch.equal(made, RandomResizePad(larger=1.5, seed=1)(same, ids))
    assert random(RandomResizePad())
    # The picture is a part of a larger black square: some of it is dark.
    assert made.mean() < same.mean()
    assert torch.allclose(RandomResizePad(larger=1.0)(same, ids), same, atol=1e-6)


def test_padding_has_a_gradient(images):
    x = images.clone().requires_grad_()
    RandomResizePad()(x).sum().backward()
    assert x.grad.abs().sum() > 0


def test_low_rank_is_low(images):
    made = TensorShield(ranks=(6, 5))(images).double()
    for image in made:
        for unfolded, rank in ((image.permute(1, 0, 2), 6), (image.permute(2, 0, 1), 5)):
            values = torch.linalg.svdvals(unfolded.flatten(1))
            assert values[rank] < 1e-4 * values[0]
    assert torch.allclose(TensorShield(ranks=(99, 99))(images), images, atol=1e-5)


def test_variation_falls(images):
    def variation(x):
        return x.diff(dim=2).abs().sum() + x.diff(dim=3).abs().sum()

    little, much = (TotalVariation(weight=w)(images) for w in (0.05, 0.3))
    assert variation(much) < variation(little) < variation(images)


@pytest.mark.parametrize("defense", ALL[1:], ids=lambda d: type(d).__name__)
def test_what_has_no_gradient_says_so(defense, images):
    with pytest.raises(NoGradient):
        defense(images.clone().requires_grad_()).sum().backward()


@pytest.mark.parametrize("defense", ALL, ids=lambda d: type(d).__name__)
def test_no_images_stay_none(defense, images):
    assert defense(images[:0]).shape == images[:0].shape


def test_settings_are_checked():
    check_settings(TotalVariation, {"weight": 0})
    with pytest.raises(ValueError, match="larger"):
        RandomResizePad(larger=0.5)
    with pytest.raises(ValueError, match="ranks"):
        TensorShield(ranks=(3,))
