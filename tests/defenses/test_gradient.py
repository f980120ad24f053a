"""The gradient through a defense: exact, refused, or the one that was chosen."""

import foolbox
import pytest
import torch
from torch import nn
from trainings import smooth

from tandem_defense.attacks.iterative import PGD
from tandem_defense.attacks.pixel import SinglePixel
from tandem_defense.classifiers.small import SmallCNN
from tandem_defense.defenses.base import Defense, NoDefense
from tandem_defense.defenses.comdefend import ComDefend
from tandem_defense.defenses.controls import JPEG, AverageBlur
from tandem_defense.defenses.dip import DIP, TandemDIP
from tandem_defense.defenses.dipdefend import DIPDefend
from tandem_defense.defenses.hgd import HGD
from tandem_defense.defenses.magnet import MagNet
from tandem_defense.pipeline import registry, schema

QUICK = {"iterations": 2, "feature_scale": 32}
TANDEM = QUICK | {"first_iterations": (2,), "first_width": 0.125}
WITHOUT = {
    "jpeg": (JPEG, {}),
    "dip": (DIP, QUICK),
    "tdips": (TandemDIP, TANDEM),
    "dipdefend": (DIPDefend, {"iterations": 2}),
}
EXACT = {
    "none": (NoDefense, {}),
    "blur": (AverageBlur, {}),
    "hgd": (HGD, {"widths": (4, 8), "forward_depths": (1, 1), "backward_depths": (1,)}),
    "comdefend": (ComDefend, {"compression": (4,), "reconstruction": (4,)}),
    "magnet": (MagNet, {"channels": 3}),
}
BOTH = pytest.mark.parametrize(("cls", "settings"), WITHOUT.values(), ids=WITHOUT)


class Coarse(Defense):
    """A user's defense that leaves PyTorch: 8 levels per channel, by numpy."""

    def forward(self, images, ids=None):
        return torch.from_numpy((images.detach().numpy() * 7).round() / 7)


@pytest.fixture(scope="module")
def net():
    """Images of any size to two logits, and a slope everywhere."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = nn.Conv2d(3, 8, 5, 2), nn.Tanh(), nn.AdaptiveAvgPool2d(2), nn.Flatten()
        return nn.Sequential(*layers, nn.Linear(32, 2)).eval().requires_grad_(False)


def slope(module, images):
    """The gradient of the first logits with respect to the images."""
    images = images.clone().requires_grad_()
    return torch.autograd.grad(module(images)[:, 0].sum(), images)[0]


@BOTH
def test_an_exact_gradient_that_is_not_there_is_an_error(cls, settings, net):
    images = smooth(2, 3, 20)
    with pytest.raises(RuntimeError) as refused:
        slope(nn.Sequential(cls(**settings), net), images)
    text = str(refused.value)
    assert text.startswith(f"{cls.__name__} has no gradient")
    assert 'gradient="straight_through"' in text and 'gradient="none"' in text


@BOTH
@pytest.mark.parametrize("channels", [1, 3])
def test_straight_through_is_the_defense_forward_and_the_identity_backward(cls, settings, channels):
    images, made = smooth(4, channels, 20), cls(**settings, gradient="straight_through")
    plain = cls(**settings)(images)
    asked = images.clone().requires_grad_()
    result = made(asked)
    assert torch.equal(result, plain) and not torch.equal(plain, images)
    weights = torch.rand(images.shape)
    result[:2].mul(weights[:2]).sum().backward()  # of half a batch
    assert torch.equal(asked.grad[:2], weights[:2]) and not asked.grad[2:].any()


@BOTH
def test_none_detaches(cls, settings):
    images = smooth(2, 3, 20).requires_grad_()
    detached = cls(**settings, gradient="none")(images)
    assert torch.equal(detached, cls(**settings)(images.detach())) and not detached.requires_grad


@pytest.mark.parametrize(("cls", "settings"), EXACT.values(), ids=EXACT)
def test_the_others_have_their_own_gradient_and_may_have_another(cls, settings, net):
    images = smooth(2, 3, 20)
    exact = slope(nn.Sequential(cls(**settings), net), images)
    assert exact.any()
    through = slope(nn.Sequential(cls(**settings, gradient="straight_through"), net), images)
    defended = cls(**settings)(images).detach()
    assert torch.equal(through, slope(net, defended))
    assert cls is NoDefense or not torch.allclose(exact, through)
    assert not cls(**settings, gradient="none")(images.requires_grad_()).requires_grad


@pytest.mark.parametrize("cls", [JPEG, Coarse])
def test_nothing_is_asked_where_nothing_needs_a_gradient(cls, net):
    images = smooth(2, 3, 20)
    defended = cls()
    assert not defended(images).requires_grad
    asked = images.clone().requires_grad_()
    with torch.no_grad():
        assert torch.equal(defended(asked), defended(images))
        assert not defended(asked).requires_grad
    assert torch.equal(defended(asked), defended(images))  # as long as nobody goes backward


def test_a_defense_of_one_s_own_inherits_it(net):
    images = smooth(2, 3, 20)
    with pytest.raises(RuntimeError, match="Coarse has no gradient"):
        slope(nn.Sequential(Coarse(), net), images)
    through = slope(nn.Sequential(Coarse(gradient="straight_through"), net), images)
    assert torch.equal(through, slope(net, Coarse()(images)))


def test_jacobians_of_both_kinds(net):
    """torch.autograd.functional's and torch.func's."""
    images = smooth(2, 3, 12)
    defended = nn.Sequential(JPEG(gradient="straight_through"), net)
    expected = torch.autograd.functional.jacobian(net, JPEG()(images))
    for found in (
        torch.autograd.functional.jacobian(defended, images),
        torch.autograd.functional.jacobian(defended, images, vectorize=True),
        torch.func.jacrev(defended)(images),
    ):
        assert torch.allclose(found, expected, atol=1e-7)
    with pytest.raises(RuntimeError, match="JPEG has no gradient"):
        torch.autograd.functional.jacobian(nn.Sequential(JPEG(), net), images)


@pytest.mark.parametrize(("cls", "settings"), [WITHOUT["jpeg"], WITHOUT["tdips"]])
@pytest.mark.parametrize("name", ["pgd", "cw"])
def test_foolbox_is_refused_or_goes_through(cls, settings, name, net):
    """Before, PGD met a bare AssertionError and C&W ran as if the model were robust."""
    images = smooth(2, 3, 20)
    attack, epsilon = {
        "pgd": (foolbox.attacks.LinfPGD(steps=3, random_start=False), 0.1),
        "cw": (foolbox.attacks.L2CarliniWagnerAttack(1, 2, initial_const=10.0), None),
    }[name]

    def run(module):
        labels = module(images).argmax(1)
        model = foolbox.PyTorchModel(module.eval(), bounds=(0, 1), device="cpu")
        raw, _, _ = attack(model, images, labels, epsilons=epsilon)
        return raw

    with pytest.raises(RuntimeError, match=f"{cls.__name__} has no gradient"):
        run(nn.Sequential(cls(**settings), net))
    through = cls(**settings, gradient="straight_through")
    moved = run(nn.Sequential(through, net))
    assert moved.shape == images.shape and not torch.equal(moved, images)


def test_our_attacks_go_through_a_defense(net):
    """PGD needs a gradient, SinglePixel none."""
    images = smooth(3, 3, 20)
    refusing = nn.Sequential(JPEG(), net)
    labels = refusing(images).argmax(1)
    SinglePixel(max_pixels=3)(refusing, images, labels)
    pgd = PGD(semantics="fixed", epsilon=0.3, step_size=0.05, steps=10)
    with pytest.raises(RuntimeError, match="JPEG has no gradient"):
        pgd(refusing, images, labels)
    result = pgd(nn.Sequential(JPEG(gradient="straight_through"), net), images, labels)
    assert (result.linf > 0).all()


def test_training_does_not_depend_on_the_choice(digits):
    """HGD's own layers learn from the exact gradient, whatever an attack shall get."""
    images, labels = digits[0][:8], digits[1][:8]
    classifier, states = SmallCNN(classes=10, channels=1, width=4).eval(), []
    for gradient in (None, "none", "straight_through"):
        hgd = HGD(**EXACT["hgd"][1], channels=1, gradient=gradient)
        hgd.fit(images, labels, seed=0, classifier=classifier, epochs=1)
        states.append(hgd.state_dict())
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]) and torch.equal(value, states[2][name])


def test_what_is_rejected_stays_rejected():
    images = smooth(3, 1, 20)
    for gradient in (None, "none", "straight_through"):
        magnet = MagNet(gradient=gradient)
        assert not magnet.rejects(images).any()
        magnet.thresholds.zero_()
        assert magnet.rejects(images).all()


@pytest.mark.parametrize("kind", registry.DEFENSES)
def test_a_configuration_may_choose(kind):
    """As one setting of every defense, its default unsaid; other values are refused."""
    found = schema.schema(registry.DEFENSES[kind])
    assert found["properties"]["gradient"] == {
        "anyOf": [{"enum": ["none", "straight_through"]}, {"type": "null"}]
    }
    assert "gradient" not in found["required"]


def test_the_choice_is_checked_and_shown():
    assert "gradient='straight_through'" in repr(JPEG(gradient="straight_through"))
    with pytest.raises(ValueError, match="gradient: found 'bpda', allowed is one of none, s"):
        JPEG(gradient="bpda")
