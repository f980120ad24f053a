"""What every attack promises, and what it refuses."""

import inspect
import math

import pytest
import torch
import torch.nn.functional as F
from attack_cases import CASES, CLASSES, RANDOM, close
from torch import nn

from tandem_defense.attacks import base
from tandem_defense.attacks.base import Attack
from tandem_defense.attacks.black_box import Noise, Square
from tandem_defense.attacks.deepfool import DeepFoolLinf
from tandem_defense.attacks.gradient import FGSM
from tandem_defense.attacks.iterative import BIM
from tandem_defense.attacks.pgd_l2 import PGDL2
from tandem_defense.pipeline import schema
from tandem_defense.settings import problems

every = pytest.mark.parametrize("name", CASES)


@every
def test_the_oracle_tests_compare_something(batch, name):
    """A comparison of unchanged images would prove nothing."""
    attack, _ = CASES[name]
    fooled = sum(int(attack(*batch(net, misclassified=0)).success.sum()) for net in ("cnn", "rgb"))
    assert fooled >= 2


@every
def test_batch_mates_do_not_matter(batch, name):
    attack, _ = CASES[name]
    net, x, y = batch(correct=3, misclassified=1)
    seeds = list(range(50, 50 + len(x)))
    together = attack(net, x, y, seeds).images
    backwards = attack(net, x.flip(0), y.flip(0), seeds[::-1]).images.flip(0)
    alone = [attack(net, x[i : i + 1], y[i : i + 1], seeds[i : i + 1]).images for i in range(4)]
    close(together, backwards)
    close(together, torch.cat(alone))


@every
def test_block_size_does_not_matter(batch, name, monkeypatch):
    attack, _ = CASES[name]
    arguments = batch(correct=2, misclassified=0)
    before = attack(*arguments).images
    monkeypatch.setattr(base, "IMAGES_AT_ONCE", 3)
    close(attack(*arguments).images, before)


@every
def test_misclassified_images_come_back_unchanged(batch, name):
    attack, _ = CASES[name]
    net, x, y = batch(correct=3, misclassified=2)
    result = attack(net, x, y)
    assert torch.equal(result.images[3:], x[3:])
    assert result.success[3:].all() and not result.clipped[3:].any()
    assert (result.linf[3:] == 0).all() and (result.l2[3:] == 0).all()
    assert torch.equal(result.prediction[3:], result.clean_prediction[3:])
    assert (result.clean_prediction[:3] == y[:3]).all()


@every
def test_result_is_consistent(batch, name):
    attack, _ = CASES[name]
    net, x, y = batch(correct=4, misclassified=1)
    net = nn.Sequential(*net).float()
    try:
        x, before = x.float(), x.float().clone()
        result = attack(net, x, y.int())
        assert torch.equal(x, before)
        assert result.images.dtype == result.linf.dtype == result.l2.dtype == torch.float32
        assert result.images.shape == x.shape
        assert result.images.min() >= 0 and result.images.max() <= 1
        assert torch.equal(result.success, result.prediction != y)
        assert torch.equal(result.prediction, net(result.images).argmax(1))
        if attack.semantics != "fixed":
            assert torch.equal(result.images[~result.success], x[~result.success])
    finally:
        net.double()


@every
def test_failed_searches_return_the_input(name):
    """No attack can fool a classifier that always says 0: with a slope, or without one."""
    attack, _ = CASES[name]

    class Zero(nn.Module):
        def forward(self, x):
            return torch.stack([x.flatten(1).mean(1) + 9, x.flatten(1)[:, :5].mean(1)], 1)

    x = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    result = attack(Zero().eval(), x, torch.zeros(3, dtype=torch.long))
    assert not result.success.any()
    assert torch.equal(result.images, x) == (attack.semantics != "fixed")


@every
def test_empty_batch(nets, name):
    attack, _ = CASES[name]
    result = attack(nets["cnn"], torch.rand(0, 1, 8, 8), torch.zeros(0, dtype=torch.long))
    assert {len(value) for value in vars(result).values()} == {0}
    assert result.images.shape == (0, 1, 8, 8)


@every
def test_classifier_is_left_as_it_was(batch, name):
    attack, _ = CASES[name]
    net, x, y = batch(correct=2, misclassified=0)
    net.zero_grad()
    layers = list(net)
    layers[0].train()
    layers[0].weight.requires_grad_(False)
    flags = [m.training for m in net.modules()], [p.requires_grad for p in net.parameters()]
    values = [p.clone() for p in net.parameters()]
    try:
        with torch.no_grad():
            attack(net, x, y)
            assert not torch.is_grad_enabled()
        after = [m.training for m in net.modules()], [p.requires_grad for p in net.parameters()]
        assert after == flags
        assert all(p.grad is None for p in net.parameters())
        assert all(map(torch.equal, values, net.parameters()))
    finally:
        net.eval().requires_grad_(True)


def test_classifier_is_left_as_it_was_after_an_error(nets):
    class Broken(Attack):
        def run(self, model, images, labels, seeds):
            raise RuntimeError("broken")

    net = nets["cnn"]
    x = torch.rand(4, 1, 8, 8).double()
    with pytest.raises(RuntimeError, match="broken"):
        Broken()(net, x, net(x).argmax(1))
    assert all(p.requires_grad for p in net.parameters()) and not net.training


def test_a_classifier_in_training_mode_is_attacked_in_eval_mode(batch):
    net, x, y = batch(correct=3, misclassified=0)
    dropping = nn.Sequential(nn.Dropout(0.9), *net)
    result = FGSM(epsilon=0.2)(dropping.train(), x, y)
    assert dropping.training
    close(result.images, FGSM(epsilon=0.2)(net, x, y).images)
    net.eval()


@pytest.mark.parametrize("name", RANDOM)
def test_seeds_decide(batch, name):
    attack, _ = CASES[name]
    net, x, y = batch(misclassified=0)
    default = attack(net, x, y).images
    assert torch.equal(default, attack(net, x, y, seeds=range(len(x))).images)
    others = [attack(net, x, y, seeds=[2**62 + i + k for i in range(len(x))]) for k in (0, 99)]
    assert not all(torch.equal(default, other.images) for other in others)


def test_random_draws_ignore_the_global_generator(batch):
    arguments = batch(misclassified=0)
    for name in RANDOM:
        torch.manual_seed(1)
        first = CASES[name][0](*arguments).images
        torch.manual_seed(2)
        state = torch.get_rng_state()
        assert torch.equal(first, CASES[name][0](*arguments).images)
        assert torch.equal(state, torch.get_rng_state())


def test_clip(batch):
    net, x, y = batch(correct=8, misclassified=1)
    free = DeepFoolLinf()(net, x, y)
    assert free.success.all() and not free.clipped.any()
    clip = free.linf[:8].median().item()
    result = DeepFoolLinf(clip=clip)(net, x, y)
    touched = free.linf > clip
    assert 0 < touched.sum() < len(x) and torch.equal(result.clipped, touched)
    assert (result.linf <= clip + 1e-7).all()
    expected = x + (free.images - x).clamp(-clip, clip)
    close(result.images, expected, 1e-12)
    assert torch.equal(result.images[~touched], free.images[~touched])
    assert torch.equal(result.prediction, net(result.images).argmax(1))
    spoiled = touched & ~result.success
    assert spoiled.any() and (result.linf[spoiled] > 0).all()  # a clipped image stays clipped


@pytest.mark.parametrize(("beyond", "clipped"), [(-1e-9, False), (1e-9, False), (1e-4, True)])
def test_clip_reports_no_rounding(batch, beyond, clipped):
    class Shift(Attack):
        semantics = "fixed"

        def run(self, model, images, labels, seeds):
            return images + 0.05 + beyond

    net, x, y = batch(misclassified=0)
    result = Shift(clip=0.05)(net, x * 0.9, net(x * 0.9).argmax(1))
    assert (result.clipped == clipped).all()
    close(result.linf, torch.full_like(result.linf, 0.05), 1e-7)


@pytest.mark.parametrize("semantics", ["minimal", "fixed"])
def test_not_a_number_never_leaves(batch, semantics):
    class Odd(Attack):
        def run(self, model, images, labels, seeds):
            attacked = 1 - images
            attacked[0, 0, 0, 0] = torch.nan
            attacked[1, 0, 0, 0] = 7
            return attacked

    Odd.semantics = semantics
    net, x, y = batch(misclassified=0)
    result = Odd()(net, x, y)
    assert torch.equal(result.images[0], x[0]) and not result.success[0]
    assert result.images.isfinite().all() and result.images.max() <= 1


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_settings_are_keywords_with_documentation(cls):
    parameters = dict(inspect.signature(cls).parameters)
    assert "clip" in parameters and inspect.getdoc(cls)
    for parameter in parameters.values():
        assert parameter.kind is parameter.KEYWORD_ONLY
        assert parameter.annotation is not parameter.empty
        assert parameter.default is not parameter.empty
    cls()


COUNTS = {"steps", "line_steps", "candidates", "binary_search_steps", "max_pixels", "d", "t"}
COUNTS |= {"rounds", "start_pixels", "restarts", "queries"}
BAD = dict.fromkeys(COUNTS, (0, 2.5, "3", None, True))
BAD |= {
    "epsilon": (0, -0.1, 1.5, math.nan, "8/255", None),
    "clip": (0, 2, math.nan, "no"),
    "semantics": ("max", "Minimal", None),
    "step_size": (0, -1, math.inf, "x"),
    "initial_const": (0, -1, None),
    "confidence": (-1, math.nan, None),
    "decay": (-0.1, math.inf, None),
    "overshoot": (-0.1, 1.1),
    "loss": ("logit",),
    "rule": ("foolbox2",),
    "order": ("Paper",),
    "r": (0, math.nan),
    "p": (0, -1),
}


@pytest.mark.parametrize(
    ("cls", "key"),
    [(cls, key) for cls in CLASSES for key in inspect.signature(cls).parameters],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_settings_out_of_range(cls, key):
    """A direct call refuses what the configuration refuses."""
    entry = schema.schema(f"{cls.__module__}:{cls.__name__}")
    for value in BAD[key]:
        if (cls, key, value) == (PGDL2, "epsilon", 1.5):
            continue  # over all pixels an L2 norm may be
        assert list(problems(entry, {key: value}))
        with pytest.raises(ValueError) as error:
            cls(**{key: value})
        message = str(error.value)
        assert message.startswith(f"{cls.__name__}: {key}: found {value!r}, allowed is "), message


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_the_configuration_has_the_same_settings(cls):
    entry = schema.schema(f"{cls.__module__}:{cls.__name__}")
    assert entry["properties"].keys() == inspect.signature(cls).parameters.keys()
    assert not list(problems(entry, cls().settings()))


def test_unknown_settings():
    with pytest.raises(TypeError, match="epsilom"):
        FGSM(epsilom=0.1)
    with pytest.raises(TypeError, match="positional"):
        FGSM("fixed")


X, Y = torch.full((2, 1, 8, 8), 0.5), torch.tensor([1, 2])


@pytest.mark.parametrize(
    ("images", "labels", "seeds", "message"),
    [
        (X[0], Y, None, r"images are \(1, 8, 8\).*\(B, C, H, W\).*images\[None\]"),
        (X.numpy(), Y, None, "images are ndarray"),
        (X.half(), Y, None, "float16.*float32"),
        ((X * 255).byte(), Y, None, r"uint8.*images.float\(\) / 255"),
        (X * 3, Y, None, r"range from 1.5 to 1.5, expected \[0, 1\]"),
        (X - 1, Y, None, "range from -0.5 to -0.5"),
        (X * torch.tensor([1, torch.nan])[:, None, None, None], Y, None, r"\[1\] contain NaN"),
        (X, Y[:1], None, r"labels are \(1,\), expected a tensor \(2,\)"),
        (X, [1, 2], None, "labels are list"),
        (X, F.one_hot(Y), None, r"labels are \(2, 3\)"),
        (X, Y.float(), None, r"float32.*labels.long\(\)"),
        (X, Y > 1, None, "bool.*whole numbers"),
        (X, Y + 8, None, "labels range from 9 to 10, expected 0 to 9"),
        (X, Y - 2, None, "labels range from -1 to 0"),
        (X, Y, [1], "1 seeds for 2 images"),
        (X, Y, [1, -1], "seed 1 is -1"),
        (X, Y, [2**63, 1], r"seed 0 is 9223372036854775808.*2\*\*63 - 1"),
        (X, Y, [0.5, 1], "seed 0 is 0.5"),
    ],
)
def test_input_errors(nets, images, labels, seeds, message):
    net = nn.Sequential(*nets["cnn"]).float()
    try:
        with pytest.raises(ValueError, match=message):
            FGSM()(net, images, labels, seeds)
    finally:
        net.double()


def test_classifier_errors():
    class Blind(nn.Linear):
        @torch.no_grad()
        def forward(self, x):
            return super().forward(x.flatten(1))

    with pytest.raises(ValueError, match="K at least 2"):
        FGSM()(nn.Sequential(nn.Flatten(), nn.Linear(64, 1)), X, Y * 0)
    with pytest.raises(ValueError, match=r"with \(1, 1, 8, 3\), expected logits"):
        FGSM()(nn.Linear(8, 3), X, Y)
    blind = Blind(64, 3)
    for attack in (FGSM(), BIM(), BIM(semantics="fixed")):
        with pytest.raises(ValueError, match="no gradient"):
            attack(blind, X, blind(X).argmax(1))


DRAWING = {name: CASES[name][0] for name in RANDOM} | {
    "noise": Noise(),
    "square": Square(queries=10),
}


@pytest.mark.parametrize("name", DRAWING)
def test_pytorch_s_defaults_change_nothing_that_is_drawn(batch, name):
    """Neither the default type nor the default device, here one without any numbers."""
    attack = DRAWING[name]
    net, images, labels = batch()
    expected = attack(net, images, labels).images
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            assert torch.equal(attack(net, images, labels).images, expected)
    finally:
        torch.set_default_dtype(before)
