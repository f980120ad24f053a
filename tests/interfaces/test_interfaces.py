"""Defenses in other tools: the same images, the same gradients."""

import eagerpy
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from foolbox import PyTorchModel
from foolbox.attacks import LinfPGD
from foolbox.models import ExpectationOverTransformationWrapper
from torch import nn
from torchvision import tv_tensors
from torchvision.transforms import v2

from tandem_defense.defenses.base import Defense, NoDefense
from tandem_defense.defenses.controls import JPEG, AverageBlur
from tandem_defense.defenses.dip import DIP
from tandem_defense.defenses.hgd import HGD
from tandem_defense.interfaces.fresh import Fresh
from tandem_defense.interfaces.torchvision import DefenseTransform


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 5, stride=3), nn.Tanh(), nn.Flatten(), nn.LazyLinear(3))


@pytest.fixture
def images():
    return torch.rand(3, 3, 20, 20, generator=torch.Generator().manual_seed(1))


class Jitter(Defense):
    """Noise from the seed alone."""

    seed: int = 0

    def forward(self, images, ids=None):
        noise = torch.randn(images.shape[1:], generator=torch.Generator().manual_seed(self.seed))
        return (images + 0.1 * noise).clamp(0, 1)


# ----------------------------------------------------------------- fresh seeds


def test_fresh_draws_anew_and_leaves_the_defense_alone(images):
    defense = Jitter(seed=5)
    fresh, again, other = Fresh(defense), Fresh(defense), Fresh(defense, seed=1)
    first, second = fresh(images), fresh(images)
    assert not torch.equal(first, second) and not torch.equal(first, other(images))
    assert torch.equal(first, again(images)) and torch.equal(second, again(images))
    assert defense.seed == 5


def test_fresh_restorations_differ():
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    fresh = Fresh(DIP(iterations=2, feature_scale=32))
    assert not torch.equal(fresh(image), fresh(image))


def test_fresh_refuses_what_draws_nothing():
    with pytest.raises(ValueError, match="AverageBlur has no seed, it draws nothing"):
        Fresh(AverageBlur())


# --------------------------------------------------------------------- Foolbox

SMALL_HGD = {"widths": (4, 8), "forward_depths": (1, 1), "backward_depths": (1,)}
SMALL_DIP = {"iterations": 2, "feature_scale": 32}


def gradient(model, images, labels):
    """What Foolbox's attacks follow, of the summed cross-entropy."""

    def loss(x):
        return eagerpy.astensor(F.cross_entropy(model(x.raw), labels, reduction="sum"))

    return eagerpy.value_and_grad(loss, eagerpy.astensor(images))[1].raw


def test_foolbox_sees_the_gradient_through_a_denoiser(net, images):
    """Which is another than that of the network alone."""
    torch.manual_seed(2)
    hgd, labels = HGD(**SMALL_HGD), torch.tensor([0, 1, 2])
    model = PyTorchModel(nn.Sequential(hgd, net).eval(), bounds=(0, 1), device="cpu")
    x = images.clone().requires_grad_()
    loss = F.cross_entropy(net(hgd(x)), labels, reduction="sum")
    (expected,) = torch.autograd.grad(loss, x)
    found = gradient(model, images, labels)
    assert torch.allclose(found, expected, atol=1e-6)
    bare = PyTorchModel(net.eval(), bounds=(0, 1), device="cpu")
    assert not torch.allclose(found, gradient(bare, images, labels), atol=1e-3)


def test_foolbox_attacks_through_a_denoiser(net, images):
    """Every image's loss rises behind the defense, and an image stays within its bound."""
    torch.manual_seed(2)
    defended = nn.Sequential(HGD(**SMALL_HGD), net).eval()
    labels = defended(images).argmax(1)
    model = PyTorchModel(defended, bounds=(0, 1), device="cpu")
    attack = LinfPGD(steps=8, random_start=False)
    _, attacked, _ = attack(model, images, labels, epsilons=0.1)
    assert (attacked - images).abs().max() <= 0.1 + 1e-6
    before, after = (
        F.cross_entropy(defended(x), labels, reduction="none") for x in (images, attacked)
    )
    assert (after > before).all()


def test_foolbox_averages_over_fresh_restorations(net):
    """Its wrapper's gradient is the mean of the draws'; without Fresh, all draws are the same."""
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    label, dip = torch.tensor([1]), DIP(**SMALL_DIP, gradient="straight_through")
    net(image)  # the lazy layer is that of this size

    def averaged(defense):
        model = PyTorchModel(nn.Sequential(defense, net).eval(), bounds=(0, 1), device="cpu")
        return ExpectationOverTransformationWrapper(model, n_steps=2)

    draw = Fresh(dip)
    restored = [draw(image).requires_grad_() for _ in range(2)]
    mean = sum(net(x) for x in restored) / 2
    expected = sum(torch.autograd.grad(F.cross_entropy(mean, label), restored))
    found = gradient(averaged(Fresh(dip)), image, label)
    assert torch.allclose(found, expected, atol=1e-6) and found.abs().max() > 0
    fixed = averaged(dip)
    assert torch.allclose(fixed(image), net(dip(image)))
    _, attacked, _ = LinfPGD(steps=2)(averaged(Fresh(dip)), image, label, epsilons=0.1)
    assert 0 < (attacked - image).abs().max() <= 0.1 + 1e-6


# ------------------------------------------------------------------------- ART


@pytest.fixture
def estimator(net):
    """``estimator(defense)``: the toolbox's classifier behind a defense."""
    pytest.importorskip("art", reason="the toolbox is not installed (extra art)")
    from art.estimators.classification import PyTorchClassifier

    from tandem_defense.interfaces.art import DefensePreprocessor

    return lambda defense: PyTorchClassifier(
        net,
        loss=nn.CrossEntropyLoss(reduction="sum"),
        input_shape=(3, 20, 20),
        nb_classes=3,
        clip_values=(0, 1),
        preprocessing_defences=[DefensePreprocessor(defense)],
        device_type="cpu",
    )


@pytest.mark.parametrize(
    "defense",
    [
        AverageBlur(),
        HGD(**SMALL_HGD),
        JPEG(gradient="straight_through"),
        JPEG(gradient="none"),
        NoDefense(),
    ],
    ids=["blur", "hgd", "straight_through", "none", "no_defense"],
)
def test_the_toolbox_sees_the_same_logits_and_gradients(defense, estimator, net, images):
    """As autograd through nn.Sequential(defense, net)."""
    labels = torch.tensor([0, 1, 2])
    tool, defended = estimator(defense), nn.Sequential(defense, net)
    assert tool.predict(images.numpy()) == pytest.approx(
        defended(images).detach().numpy(), abs=1e-6
    )
    x = images.clone().requires_grad_()
    loss = F.cross_entropy(defended(x), labels, reduction="sum")
    expected = torch.zeros_like(x)
    if loss.requires_grad and getattr(defense, "gradient", None) != "none":
        (expected,) = torch.autograd.grad(loss, x)
        assert expected.abs().max() > 0
    found = tool.loss_gradient(images.numpy(), np.eye(3)[labels])
    assert found == pytest.approx(expected.numpy(), abs=1e-6)
    assert found.dtype == np.float32


def test_a_batch_of_the_toolbox_is_split(estimator, images):
    """It hands over all images at once, and a denoiser's maps need far more memory than they."""
    from tandem_defense.interfaces.art import DefensePreprocessor

    seen = []

    class Counted(AverageBlur):
        def forward(self, images, ids=None):
            seen.append(len(images))
            return super().forward(images, ids)

    tool, x = DefensePreprocessor(Counted(), batch_size=2), images.numpy()
    assert (tool(x)[0] == DefensePreprocessor(AverageBlur())(x)[0]).all()
    assert seen == [2, 1]
    found = tool.estimate_gradient(x, x)
    assert (found == DefensePreprocessor(AverageBlur()).estimate_gradient(x, x)).all()
    assert seen == [2, 1, 2, 1]
    assert tool(x[:0])[0].shape == (0, 3, 20, 20)
    with pytest.raises(ValueError, match="batch_size: found 0, allowed is a whole number ≥ 1"):
        DefensePreprocessor(AverageBlur(), batch_size=0)


def test_an_attack_leaves_no_gradients_in_the_defense(estimator, images):
    defense = HGD(**SMALL_HGD)
    estimator(defense).loss_gradient(images.numpy(), np.eye(3)[[0, 1, 2]])
    assert all(parameter.grad is None for parameter in defense.parameters())


def test_the_toolbox_is_told_that_a_gradient_is_missing(estimator, images):
    with pytest.raises(RuntimeError, match="JPEG has no gradient"):
        estimator(JPEG()).loss_gradient(images.numpy(), np.eye(3))


def test_the_toolbox_attacks_through_a_blur(estimator, net, images):
    """Its PGD finds what the undefended network's gradient alone would not: the defended loss."""
    from art.attacks.evasion import ProjectedGradientDescent

    defended = nn.Sequential(AverageBlur(), net)
    labels = defended(images).argmax(1)
    tool = estimator(AverageBlur())
    attack = ProjectedGradientDescent(tool, eps=0.1, eps_step=0.03, max_iter=8, verbose=False)
    attacked = torch.from_numpy(attack.generate(images.numpy(), labels.numpy()))
    assert (attacked - images).abs().max() <= 0.1 + 1e-6

    def loss(x):
        return F.cross_entropy(defended(x), labels, reduction="none")

    assert (loss(attacked) > loss(images)).all()


# ----------------------------------------------------------------- torchvision


def test_the_transform_defends_a_picture(images):
    picture = v2.functional.to_pil_image(images[0])
    pixels = v2.functional.pil_to_tensor(picture)
    made = DefenseTransform(JPEG(quality=30))(picture)
    assert made.size == picture.size and made.mode == "RGB"
    expected = JPEG(quality=30)(pixels[None] / 255)[0]
    difference = v2.functional.pil_to_tensor(made) / 255 - expected
    assert difference.abs().max() <= 1 / 255 + 1e-6
    assert (v2.functional.pil_to_tensor(made) != pixels).any()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_the_transform_keeps_type_and_shape(images, dtype):
    """Of a batch of videos; no defense leaves every value as it was."""
    x = v2.functional.to_dtype(images[None], dtype, scale=True)
    video = tv_tensors.Video(x)
    made = DefenseTransform(NoDefense())(video)
    assert isinstance(made, tv_tensors.Video) and made.dtype == dtype
    assert torch.equal(made, video)


def test_the_transform_refuses_other_pictures_before_it_defends(images):
    """A palette's numbers are no brightness."""
    picture = v2.functional.to_pil_image(images[0]).convert("P")

    def defense(images):
        raise AssertionError

    with pytest.raises(ValueError, match=r'mode P, .*: convert it with \.convert\("RGB"\)'):
        DefenseTransform(defense)(picture)


def test_the_transform_leaves_labels_and_boxes_alone(images):
    boxes = tv_tensors.BoundingBoxes([[0, 0, 5, 5]], format="XYXY", canvas_size=(20, 20))
    sample = {"image": tv_tensors.Image(images[0]), "label": torch.tensor(3), "boxes": boxes}
    made = DefenseTransform(AverageBlur())(sample)
    assert torch.equal(made["boxes"], boxes) and made["label"] == 3
    expected = AverageBlur()(images[:1])[0]
    assert torch.equal(made["image"].as_subclass(torch.Tensor), expected)


# ------------------------------------------------------------------- own model


def test_a_model_of_another_package_is_a_classifier(tmp_path):
    """`kind: own`, as docs/interfaces.md takes a model of RobustBench."""
    from safetensors.torch import save_file

    from tandem_defense.classifiers.own import Own

    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 5))
    save_file(net.state_dict(), tmp_path / "known.safetensors")
    (tmp_path / "known.py").write_text(
        "from torch import nn\n\n\ndef load():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(192, 5))\n"
    )
    weights = str(tmp_path / "known.safetensors")
    own = Own(module=f"{tmp_path / 'known.py'}:load", weights=weights, normalization="none").eval()
    own.read_checkpoint(weights)
    x = torch.rand(2, 3, 8, 8)
    assert torch.equal(own(x), net(x))
