"""Every attack and semantics against a plain loop over one image, and what all attacks promise."""

import inspect
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from foolbox import PyTorchModel, TargetedMisclassification
from foolbox.attacks import L2CarliniWagnerAttack
from sklearn.datasets import load_digits
from torch import nn

from tandem_defense.attacks import base
from tandem_defense.attacks.base import Attack
from tandem_defense.attacks.carlini_wagner import CarliniWagnerL2
from tandem_defense.attacks.deepfool import DeepFoolL2, DeepFoolLinf
from tandem_defense.attacks.gradient import (
    FGSM,
    Gradient,
    L2LineSearchAttack,
    LinfLineSearchAttack,
)
from tandem_defense.attacks.iterative import (
    BIM,
    MIFGSM,
    PGD,
    IterativeFGSM,
    IterativeLineSearchAttack,
    L1MomentumAttack,
    SeededPGDAttack,
    SignDescentAttack,
)
from tandem_defense.attacks.pixel import (
    LocalSearch,
    LocalSearchAttack,
    SinglePixel,
    SinglePixelAttack,
)

# --- classifiers and images -----------------------------------------------------------------------


class ToGray(nn.Module):
    """RGB to one channel, each colour with a weight of its own."""

    def forward(self, x):
        return (x * x.new_tensor([0.5, 0.3, 0.2])[:, None, None]).sum(1, keepdim=True)


class FallsOffACliff(nn.Module):
    """Class 0 unless the image is nearly black; flat everywhere, so no gradient attack succeeds."""

    def forward(self, x):
        bright = (x.flatten(1).sum(1) > 0.5).to(x.dtype)
        return torch.stack([bright, torch.full_like(bright, 0.5)], 1) + 0 * x.flatten(1)[:, :1]


class Band(nn.Module):
    """Class 1 where the mean is between 0.46 and 0.66, class 0 on both sides."""

    def forward(self, x):
        mean = x.flatten(1).mean(1)
        return torch.stack([0 * mean, 0.1 - (mean - 0.56).abs()], 1)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def digits():
    data = load_digits()
    return torch.tensor(data.images / 16)[:, None], torch.tensor(data.target).long()


@pytest.fixture(scope="session")
def nets(digits):
    """A small CNN, gray and RGB, and a linear model on 8×8 digits; float64, in eval mode."""
    x, y = digits[0][:600].float(), digits[1][:600]
    torch.manual_seed(0)
    cnn = nn.Sequential(
        *(nn.Conv2d(1, 8, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 16, 3, 1, 1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10)),
    )
    linear = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    for net in (cnn, linear):
        parameters = list(net.parameters())
        for _ in range(12):
            for part in torch.randperm(600).split(20):
                loss = F.cross_entropy(net(x[part]), y[part])
                with torch.no_grad():  # plain descent: torch.optim takes seconds to import
                    for value, slope in zip(
                        parameters, torch.autograd.grad(loss, parameters), strict=True
                    ):
                        value -= 0.1 * slope
    cnn, linear = cnn.double().eval(), linear.double().eval()
    return {
        "cnn": cnn,
        "linear": linear,
        "rgb": nn.Sequential(ToGray(), cnn).eval(),
    }


@pytest.fixture(scope="session")
def batch(nets, digits):
    """Net by name to (net, images, labels): 10 images it gets right and, last, 2 it gets wrong."""

    def make(name="cnn", right=10, wrong=2):
        net, (x, y) = nets[name], (digits[0][900:], digits[1][900:])
        if name == "rgb":
            noise = torch.rand(len(x), 3, 8, 8, generator=torch.Generator().manual_seed(1))
            x = (0.9 * x + 0.1 * noise.double()).clamp(0, 1)
        good = (net(x).argmax(1) == y).nonzero().flatten()[: right + wrong]
        x, y = x[good].clone(), y[good].clone()
        y[right:] = (y[right:] + 1) % 10
        return net, x, y

    return make


# --- oracles: one image (C, H, W), plain loops ----------------------------------------------------


@torch.no_grad()
def wrong(net, x, y):
    return net(x[None]).argmax().item() != int(y)


def slope(net, x, y):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(F.cross_entropy(net(x[None]), y[None]), x)[0]


def line(net, x, y, direction, top, steps):
    g, sizes, found = direction(slope(net, x, y)), np.linspace(0, top, steps + 1)[1:], None
    for _ in range(2):
        for i, size in enumerate(sizes):
            z = (x + float(size) * g).clamp(0, 1)
            if wrong(net, z, y):
                if i >= 20:
                    return z
                found = z
                break
        sizes = np.linspace(0, sizes[i], 21)[1:]
    return found


def by_rms(g):
    return g / (g.square().mean().sqrt() + 1e-8)


def iterated_line(net, x, y, top, lines, steps):
    best = None
    for size in np.linspace(0, top / steps, lines + 1)[1:]:
        z = x
        for _ in range(steps):
            z = (z + float(size) * slope(net, z, y).sign()).clamp(0, 1)
            if wrong(net, z, y) and (best is None or (z - x).norm() < (best - x).norm()):
                best = z
    return best


def trial(net, x, y, epsilon, step, steps, mu=0.0, stop=True, start=None):
    """One descent of BIM (mu 0) or of Dong et al.'s algorithm 1."""
    z, g = x if start is None else start, 0
    for _ in range(steps):
        now = slope(net, z, y)
        g = mu * g + now / now.abs().sum()
        z = x + torch.clamp(z + step * torch.sign(g) - x, -epsilon, epsilon)
        z = z.clamp(0, 1)
        if stop and wrong(net, z, y):
            return z
    return None if stop else z


def searched(net, x, y, epsilon, step, steps, k, mu=0.0):
    ratio, seen = step / epsilon, []

    def attempt(size):
        z = trial(net, x, y, size, ratio * size, steps, mu)
        seen.extend([] if z is None else [z])
        return z is not None

    for _ in range(k):
        if attempt(epsilon):
            break
        epsilon *= 1.5
    else:
        return None
    bad, good = 0, epsilon
    for _ in range(k):
        middle = (bad + good) / 2
        if attempt(middle):
            good = middle
        else:
            bad = middle
    return min(seen, key=lambda z: (z - x).norm())


def deepfool(net, x, y, p, steps, candidates, overshoot, log):
    logs = (lambda z: net(z[None])[0].log_softmax(0)) if log else (lambda z: net(z[None])[0])
    others = net(x[None])[0].argsort(descending=True)[1:candidates]
    z, r = x, torch.zeros_like(x)
    for _ in range(steps):
        if wrong(net, z, y):
            return z
        best = (math.inf,)
        for k in others:
            at = z.clone().requires_grad_()
            scores = logs(at)
            f = scores[k] - scores[y]
            w = torch.autograd.grad(f, at)[0]
            norm = (w.norm() if p == 2 else w.abs().sum()) + 1e-8
            best = min(best, (f.abs() / norm, w), key=lambda found: found[0])
        size, w = best
        r = r + (size.detach() + 1e-4) * (w / (w.norm() + 1e-8) if p == 2 else w.sign())
        z = (x + (1 + overshoot) * r).clamp(0, 1)
    return z


def single_pixel(net, x, y, most, seed):
    width = x.shape[2]
    order = torch.randperm(x[0].numel(), generator=torch.Generator().manual_seed(seed))
    for pixel in order[:most].tolist():
        for value in (0, 1):
            z = x.clone()
            z[:, pixel // width, pixel % width] = value
            if wrong(net, z, y):
                return z
    return None


def local_search(net, x, y, seed, r, p, d, t, rounds, start, most_likely):
    _, height, width = x.shape
    generator = torch.Generator().manual_seed(seed)
    pixels = {(i, j) for i in range(height) for j in range(width)}
    z, limit = x - 0.5, min(int(0.1 * height * width), start)
    for _ in range(rounds):
        keys = torch.rand(height * width, generator=generator, dtype=torch.float64)
        drawn = sorted(pixels, key=lambda at: keys[at[0] * width + at[1]])[:limit]
        scores = []
        for i, j in drawn:
            probe = z.clone()
            probe[:, i, j] = p * probe[:, i, j].sign()
            scores.append(net(probe[None] + 0.5).softmax(1)[0, y].item())
        order = np.argsort(scores, kind="stable")
        chosen = [drawn[n] for n in (order[-t:] if most_likely else order[:t])]
        for i, j in chosen:
            for c in range(len(z)):
                value = r * z[c, i, j].item()
                z[c, i, j] = value + 1 if value < -0.5 else value - 1 if value > 0.5 else value
        if wrong(net, z + 0.5, y):
            return z + 0.5
        pixels = {
            (a, b)
            for i, j in chosen
            for a in range(max(0, i - d), min(height, i + d + 1))
            for b in range(max(0, j - d), min(width, j + d + 1))
        }
        limit = start
    return None


def carlini_wagner(net, x, y, keep_black=False, **settings):
    attack = L2CarliniWagnerAttack(abort_early=False, **settings)
    model = PyTorchModel(net, bounds=(0, 1), device="cpu")
    z = attack(model, x[None], y[None], epsilons=None)[0][0]
    return z if keep_black or z.any() else None


def pgd_start(x, epsilon, seed):
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (x + epsilon * (2 * noise - 1)).clamp(0, 1)


def pgd(net, x, y, epsilon, step, steps, seed):
    start = pgd_start(x, epsilon, seed)
    return trial(net, x, y, epsilon, step, steps, stop=False, start=start)


E = 8 / 255
LOCAL = {"r": 1.5, "p": 10.0, "d": 2, "t": 3, "rounds": 12}
CW = {"binary_search_steps": 3, "steps": 12, "initial_const": 1.0}

# name: (attack, oracle for image x of label y and seed s or None)
CASES = {
    "FGSM minimal": (
        FGSM(epsilon=0.2, line_steps=100),
        lambda net, x, y, s: line(net, x, y, torch.sign, 0.2, 100),
    ),
    "FGSM minimal, early": (
        FGSM(epsilon=1, line_steps=100),
        lambda net, x, y, s: line(net, x, y, torch.sign, 1, 100),
    ),
    "FGSM fixed": (
        FGSM(semantics="fixed", epsilon=0.06),
        lambda net, x, y, s: (x + 0.06 * slope(net, x, y).sign()).clamp(0, 1),
    ),
    "Gradient minimal": (
        Gradient(epsilon=0.3, line_steps=100),
        lambda net, x, y, s: line(net, x, y, by_rms, 0.3, 100),
    ),
    "Gradient fixed": (
        Gradient(semantics="fixed", epsilon=0.06),
        lambda net, x, y, s: (x + 0.06 * slope(net, x, y) / rms(slope(net, x, y))).clamp(0, 1),
    ),
    "IterativeFGSM minimal": (
        IterativeFGSM(epsilon=0.12, line_steps=12, steps=4),
        lambda net, x, y, s: iterated_line(net, x, y, 0.12, 12, 4),
    ),
    "IterativeFGSM fixed": (
        IterativeFGSM(semantics="fixed", epsilon=0.06, steps=4),
        lambda net, x, y, s: trial(net, x, y, 1, 0.06 / 4, 4, stop=False),
    ),
    "BIM minimal": (
        BIM(semantics="minimal", epsilon=0.03, step_size=0.01, steps=5, binary_search_steps=6),
        lambda net, x, y, s: searched(net, x, y, 0.03, 0.01, 5, 6),
    ),
    "BIM minimal, default step": (
        BIM(semantics="minimal", binary_search_steps=5),
        lambda net, x, y, s: searched(net, x, y, E, 0.05, 10, 5),
    ),
    "BIM corner": (
        BIM(epsilon=0.06),
        lambda net, x, y, s: trial(net, x, y, 0.06, 0.05, 10),
    ),
    "BIM fixed": (
        BIM(semantics="fixed", epsilon=0.06),
        lambda net, x, y, s: trial(net, x, y, 0.06, 0.006, 10, stop=False),
    ),
    "PGD minimal": (
        PGD(semantics="minimal", epsilon=0.05, steps=8, binary_search_steps=5),
        lambda net, x, y, s: searched(net, x, y, 0.05, 0.01, 8, 5),
    ),
    "PGD corner": (
        PGD(epsilon=0.07),
        lambda net, x, y, s: trial(net, x, y, 0.07, 0.01, 40),
    ),
    "PGD fixed": (
        PGD(semantics="fixed", epsilon=0.06, steps=20),
        lambda net, x, y, s: pgd(net, x, y, 0.06, 0.06 / 30, 20, s),
    ),
    "MIFGSM minimal": (
        MIFGSM(semantics="minimal", epsilon=0.05, steps=6, decay=0.7, binary_search_steps=5),
        lambda net, x, y, s: searched(net, x, y, 0.05, 0.06, 6, 5, mu=0.7),
    ),
    "MIFGSM corner": (
        MIFGSM(epsilon=0.07, step_size=0.01),
        lambda net, x, y, s: trial(net, x, y, 0.07, 0.01, 10, mu=1.0),
    ),
    "MIFGSM fixed": (
        MIFGSM(semantics="fixed", epsilon=0.12, steps=20),
        lambda net, x, y, s: trial(net, x, y, 0.12, 0.012, 20, mu=1.0, stop=False),
    ),
    "DeepFoolL2": (
        DeepFoolL2(steps=6, candidates=4),
        lambda net, x, y, s: deepfool(net, x, y, 2, 6, 4, 0.02, False),
    ),
    "DeepFoolL2 crossentropy": (
        DeepFoolL2(steps=6, overshoot=0.1, loss="crossentropy"),
        lambda net, x, y, s: deepfool(net, x, y, 2, 6, 10, 0.1, True),
    ),
    "DeepFoolLinf": (
        DeepFoolLinf(steps=6, candidates=50),
        lambda net, x, y, s: deepfool(net, x, y, math.inf, 6, 10, 0.02, False),
    ),
    "CarliniWagnerL2": (
        CarliniWagnerL2(step_size=0.1, **CW),
        lambda net, x, y, s: carlini_wagner(net, x, y, stepsize=0.1, **CW),
    ),
    "CarliniWagnerL2 confident": (
        CarliniWagnerL2(step_size=0.1, confidence=1, **CW),
        lambda net, x, y, s: carlini_wagner(net, x, y, stepsize=0.1, confidence=1, **CW),
    ),
    "SinglePixel": (
        SinglePixel(max_pixels=40),
        lambda net, x, y, s: single_pixel(net, x, y, 40, s),
    ),
    "SinglePixel, every pixel": (
        SinglePixel(),
        lambda net, x, y, s: single_pixel(net, x, y, 64, s),
    ),
    "LocalSearch": (
        LocalSearch(**LOCAL),
        lambda net, x, y, s: local_search(net, x, y, s, start=128, most_likely=True, **LOCAL),
    ),
    "LocalSearch paper, few candidates": (
        LocalSearch(start_pixels=5, order="paper", **LOCAL),
        lambda net, x, y, s: local_search(net, x, y, s, start=5, most_likely=False, **LOCAL),
    ),
}
RANDOM = [name for name in CASES if name.startswith(("PGD fixed", "SinglePixel", "LocalSearch"))]
CLASSES = sorted({type(attack) for attack, _ in CASES.values()}, key=lambda c: c.__name__)
every = pytest.mark.parametrize("name", CASES)


def rms(g):
    return g.square().mean().sqrt()


def close(found, expected, atol=1e-9):
    """Without torch.testing, whose import takes as long as torch's own."""
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= atol


def norms(images, x):
    difference = (images - x).flatten(1)
    return difference.abs().amax(1).float(), difference.square().sum(1).sqrt().float()


# --- each attack against its oracle ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "net_name"),
    [(name, net) for name in CASES for net in ("cnn", "rgb")]
    + [(next(name for name in CASES if type(CASES[name][0]) is c), "linear") for c in CLASSES],
)
def test_equals_the_plain_loop(batch, name, net_name):
    attack, oracle = CASES[name]
    net, x, y = batch(net_name, right=5, wrong=0)
    seeds = [1000 + i for i in range(len(x))]
    result = attack(net, x, y, seeds)
    expected = []
    for one, label, seed in zip(x, y, seeds, strict=True):
        z = oracle(net, one, label, seed)
        failed = z is None or (attack.semantics != "fixed" and not wrong(net, z, label))
        expected.append(one if failed else z)
    expected = torch.stack(expected)
    close(result.images, expected)
    assert torch.equal(result.prediction, net(expected).argmax(1))
    assert torch.equal(result.success, result.prediction != y)
    for realised, reference in zip((result.linf, result.l2), norms(expected, x), strict=True):
        close(realised, reference, 1e-6)


@every
def test_the_oracle_tests_compare_something(batch, name):
    """A comparison of unchanged images would prove nothing."""
    attack, _ = CASES[name]
    fooled = sum(int(attack(*batch(net, wrong=0)).success.sum()) for net in ("cnn", "rgb"))
    assert fooled >= 2


def test_semantics_bind_as_the_papers_say(batch):
    net, x, y = batch(wrong=0)
    corner = BIM(epsilon=0.08, step_size=0.1)(net, x, y)  # a step beyond ε ends on a corner
    assert corner.success.any() and (corner.linf[corner.success] - 0.08).abs().max() < 1e-6
    minimal = BIM(semantics="minimal", epsilon=0.01)(net, x, y)
    assert minimal.success.all() and (minimal.linf > 0.01).any()  # a start, not a bound
    fixed = FGSM(semantics="fixed", epsilon=0.06)(net, x, y)
    assert torch.allclose(fixed.linf, torch.tensor(0.06))
    assert (FGSM(epsilon=0.06)(net, x, y).linf <= 0.06 + 1e-7).all()


def test_foolbox_momentum_is_another_attack(batch):
    """Foolbox 3.3.4 accumulates signs: if it is ever mended, ours can go."""
    from foolbox.attacks.mi_fgsm import LinfMomentumIterativeFastGradientMethod

    net, x, y = batch(wrong=0)
    settings = {"momentum": 1.0, "abs_stepsize": 0.012, "steps": 20}
    model = PyTorchModel(net, bounds=(0, 1), device="cpu")
    theirs = LinfMomentumIterativeFastGradientMethod(**settings)
    ours = MIFGSM(semantics="fixed", epsilon=0.12, steps=20)(net, x, y).images
    assert (theirs.run(model, x, y, epsilon=0.12) - ours).abs().max() > 1e-3


def test_a_line_without_success_is_searched_once_more():
    """Foolbox 2's second pass runs then too, and finds what lay between the sizes of the first."""
    net, x, y = Band().eval(), torch.full((1, 1, 8, 8), 0.4).double(), torch.tensor([0])
    result = FGSM(epsilon=0.5, line_steps=1)(net, x, y)
    close(result.images[0], line(net, x[0], y[0], torch.sign, 0.5, 1))
    assert result.success.all() and abs(result.linf.item() - 0.075) < 1e-6


# --- what every attack promises -------------------------------------------------------------------


@every
def test_batch_mates_do_not_matter(batch, name):
    attack, _ = CASES[name]
    net, x, y = batch(right=3, wrong=1)
    seeds = list(range(50, 50 + len(x)))
    together = attack(net, x, y, seeds).images
    backwards = attack(net, x.flip(0), y.flip(0), seeds[::-1]).images.flip(0)
    alone = [attack(net, x[i : i + 1], y[i : i + 1], seeds[i : i + 1]).images for i in range(4)]
    close(together, backwards)
    close(together, torch.cat(alone))


@every
def test_block_size_does_not_matter(batch, name, monkeypatch):
    attack, _ = CASES[name]
    arguments = batch(right=2, wrong=0)
    before = attack(*arguments).images
    monkeypatch.setattr(base, "IMAGES_AT_ONCE", 3)
    close(attack(*arguments).images, before)


@every
def test_misclassified_images_come_back_unchanged(batch, name):
    attack, _ = CASES[name]
    net, x, y = batch(right=3, wrong=2)
    result = attack(net, x, y)
    assert torch.equal(result.images[3:], x[3:])
    assert result.success[3:].all() and not result.clipped[3:].any()
    assert (result.linf[3:] == 0).all() and (result.l2[3:] == 0).all()
    assert torch.equal(result.prediction[3:], result.clean_prediction[3:])
    assert (result.clean_prediction[:3] == y[:3]).all()


@every
def test_result_is_consistent(batch, name):
    attack, _ = CASES[name]
    net, x, y = batch(right=4, wrong=1)
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
    net, x, y = batch(right=2, wrong=0)
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
    net, x, y = batch(right=3, wrong=0)
    dropping = nn.Sequential(nn.Dropout(0.9), *net)
    result = FGSM(epsilon=0.2)(dropping.train(), x, y)
    assert dropping.training
    close(result.images, FGSM(epsilon=0.2)(net, x, y).images)
    net.eval()


@pytest.mark.parametrize("name", RANDOM)
def test_seeds_decide(batch, name):
    attack, _ = CASES[name]
    net, x, y = batch(wrong=0)
    default = attack(net, x, y).images
    assert torch.equal(default, attack(net, x, y, seeds=range(len(x))).images)
    others = [attack(net, x, y, seeds=[2**62 + i + k for i in range(len(x))]) for k in (0, 99)]
    assert not all(torch.equal(default, other.images) for other in others)


def test_random_draws_ignore_the_global_generator(batch):
    arguments = batch(wrong=0)
    for name in RANDOM:
        torch.manual_seed(1)
        first = CASES[name][0](*arguments).images
        torch.manual_seed(2)
        state = torch.get_rng_state()
        assert torch.equal(first, CASES[name][0](*arguments).images)
        assert torch.equal(state, torch.get_rng_state())


# --- clip -----------------------------------------------------------------------------------------


def test_clip(batch):
    net, x, y = batch(right=8, wrong=1)
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
    spoilt = touched & ~result.success
    assert spoilt.any() and (result.linf[spoilt] > 0).all()  # a clipped image stays clipped


@pytest.mark.parametrize(("beyond", "clipped"), [(-1e-9, False), (1e-9, False), (1e-4, True)])
def test_clip_reports_no_rounding(batch, beyond, clipped):
    class Shift(Attack):
        semantics = "fixed"

        def run(self, model, images, labels, seeds):
            return images + 0.05 + beyond

    net, x, y = batch(wrong=0)
    result = Shift(clip=0.05)(net, x * 0.9, net(x * 0.9).argmax(1))
    assert (result.clipped == clipped).all()
    close(result.linf, torch.full_like(result.linf, 0.05), 1e-7)


# --- pitfalls -------------------------------------------------------------------------------------


def test_carlini_wagner_is_never_black():
    """Foolbox returns a black image where it fails, and black may be misclassified."""
    net, x = FallsOffACliff().eval(), torch.rand(3, 1, 8, 8).double() / 2 + 0.5
    y = torch.zeros(3, dtype=torch.long)
    theirs = carlini_wagner(net, x[0], y[0], keep_black=True, **CW)
    assert (theirs == 0).all() and wrong(net, theirs, y[0])
    result = CarliniWagnerL2(**CW)(net, x, y)
    assert torch.equal(result.images, x) and not result.success.any()


@pytest.mark.parametrize("semantics", ["minimal", "fixed"])
def test_not_a_number_never_leaves(batch, semantics):
    class Odd(Attack):
        def run(self, model, images, labels, seeds):
            found = 1 - images
            found[0, 0, 0, 0] = torch.nan
            found[1, 0, 0, 0] = 7
            return found

    Odd.semantics = semantics
    net, x, y = batch(wrong=0)
    result = Odd()(net, x, y)
    assert torch.equal(result.images[0], x[0]) and not result.success[0]
    assert result.images.isfinite().all() and result.images.max() <= 1


@pytest.mark.parametrize("cls", [DeepFoolL2, DeepFoolLinf])
def test_deepfool_hands_on_its_loss(batch, monkeypatch, cls):
    """Log-probabilities and logits differ alike, so only rounding could tell the two apart."""
    seen, original = [], cls.foolbox
    monkeypatch.setattr(
        cls, "foolbox", staticmethod(lambda **given: seen.append(given) or original(**given))
    )
    cls(steps=1, loss="crossentropy")(*batch(right=1, wrong=0))
    cls(steps=1)(*batch(right=1, wrong=0))
    assert [given["loss"] for given in seen] == ["crossentropy", "logits"]


def test_pixel_attacks_change_few_pixels(batch):
    net, x, y = batch("rgb", wrong=0)
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


def test_a_line_takes_few_forward_passes(batch):
    net, x, y = batch(right=1, wrong=0)
    calls = []
    hook = net.register_forward_hook(lambda *_: calls.append(1))
    try:
        FGSM(epsilon=0.005)(net, x, y)
        SinglePixel()(net, x, y)
    finally:
        hook.remove()
    assert len(calls) < 30  # of 1020 sizes and 128 single pixels


# --- Foolbox's interface --------------------------------------------------------------------------

OURS = {
    "line, Linf": (LinfLineSearchAttack(epsilon=0.2), FGSM(epsilon=0.2)),
    "line, L2": (L2LineSearchAttack(epsilon=0.3), Gradient(epsilon=0.3)),
    "iterated line": (
        IterativeLineSearchAttack(epsilon=0.1, line_steps=9, steps=3),
        IterativeFGSM(epsilon=0.1, line_steps=9, steps=3),
    ),
    "descent": (SignDescentAttack(epsilon=0.06, decay=1.0), MIFGSM(epsilon=0.06, step_size=0.05)),
    "single pixel": (SinglePixelAttack(), SinglePixel()),
    "local search": (LocalSearchAttack(rounds=9), LocalSearch(rounds=9)),
}


@pytest.mark.parametrize("name", OURS)
def test_foolbox_interface(batch, name):
    ours, house = OURS[name]
    net, x, y = batch(right=8, wrong=1)
    model, expected = PyTorchModel(net, bounds=(0, 1), device="cpu"), house(net, x, y)
    raw, clipped, success = ours(model, x, y, epsilons=None)
    close(raw, expected.images)
    assert torch.equal(success, expected.success)
    _, clipped, success = ours(model, x, y, epsilons=[0.001, 1e3])
    assert torch.equal(success[1], expected.success) and success[0].sum() < success[1].sum()
    wide = PyTorchModel(nn.Sequential(Scale(), net).eval(), bounds=(0, 255), device="cpu")
    raw, _, _ = ours(wide, 255 * x, y, epsilons=None)
    close(raw / 255, expected.images, 1e-6)  # float32 bounds
    with pytest.raises(ValueError, match="untargeted"):
        ours(model, x, TargetedMisclassification(y), epsilons=None)
    with pytest.raises(TypeError, match="unexpected"):
        ours(model, x, y, epsilons=None, colour="red")


class Scale(nn.Module):
    def forward(self, x):
        return x / 255


@pytest.mark.parametrize(
    ("ours", "house"),
    [
        (
            L1MomentumAttack(abs_stepsize=0.01, steps=10),
            MIFGSM(semantics="fixed", epsilon=0.06, step_size=0.01),
        ),
        (
            SeededPGDAttack(abs_stepsize=0.01, steps=10),
            PGD(semantics="fixed", epsilon=0.06, step_size=0.01, steps=10),
        ),
    ],
)
def test_foolbox_interface_of_fixed_attacks(batch, ours, house):
    net, x, y = batch(right=8, wrong=0)
    model = PyTorchModel(net, bounds=(0, 1), device="cpu")
    _, clipped, success = ours(model, x, y, epsilons=0.06)
    expected = house(net, x, y)
    close(clipped, expected.images)
    assert torch.equal(success, expected.success)


# --- errors ---------------------------------------------------------------------------------------


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
COUNTS |= {"rounds", "start_pixels"}
BAD = dict.fromkeys(COUNTS, (0, 2.5, "3", None, True))
BAD |= {
    "epsilon": (0, -0.1, 1.5, math.nan, "8/255", None),
    "clip": (0, 2, math.nan, "no"),
    "semantics": ("Minimal", None),
    "step_size": (0, -1, math.inf, "x"),
    "initial_const": (0, -1, None),
    "confidence": (-1, math.nan, None),
    "decay": (-0.1, math.inf, None),
    "overshoot": (-0.1, 1.1),
    "loss": ("logit",),
    "order": ("Paper",),
    "r": (0, 2.1),
    "p": (0, -1),
}
BAD["candidates"] += (1,)


@pytest.mark.parametrize(
    ("cls", "key"),
    [(cls, key) for cls in CLASSES for key in inspect.signature(cls).parameters],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_settings_out_of_range(cls, key):
    for value in BAD[key]:
        with pytest.raises(ValueError) as error:
            cls(**{key: value})
        message = str(error.value)
        assert message.startswith(f"{key} is {value!r}, expected "), message


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
        (X * torch.tensor([1, torch.nan])[:, None, None, None], Y, None, r"\[1\] hold NaN"),
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
    with pytest.raises(ValueError, match="no gradient"):
        FGSM()(blind, X, blind(X).argmax(1))
