"""Every attack and semantics beside its plain loop, and what the tests of all attacks share."""

import math
from collections.abc import Callable

import torch
from attack_oracles import (
    by_rms,
    carlini_wagner,
    deepfool,
    deepfool_1,
    fooled,
    iterated_line,
    line,
    local_search,
    pgd,
    pgd_l2,
    rms,
    searched,
    single_pixel,
    slope,
    trial,
)
from torch import nn

from tandem_defense.attacks.base import Attack
from tandem_defense.attacks.carlini_wagner import CarliniWagnerL2
from tandem_defense.attacks.deepfool import DeepFoolL2, DeepFoolLinf
from tandem_defense.attacks.gradient import FGSM, Gradient
from tandem_defense.attacks.iterative import BIM, MIFGSM, PGD, IterativeFGSM
from tandem_defense.attacks.pgd_l2 import PGDL2
from tandem_defense.attacks.pixel import LocalSearch, SinglePixel

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
    "PGDL2": (
        PGDL2(epsilon=0.8, steps=8),
        lambda net, x, y, s: pgd_l2(net, x, y, 0.8, 0.25, 8, 1, s),
    ),
    "PGDL2, restarts": (
        PGDL2(epsilon=0.5, steps=4, step_size=0.2, restarts=3),
        lambda net, x, y, s: pgd_l2(net, x, y, 0.5, 0.2, 4, 3, s),
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
    "DeepFoolL2 foolbox1": (
        DeepFoolL2(rule="foolbox1", steps=6, candidates=4),
        lambda net, x, y, s: deepfool_1(net, x, y, 2, 6, 4),
    ),
    "DeepFoolL2 foolbox1, one step": (
        DeepFoolL2(rule="foolbox1", steps=1),
        lambda net, x, y, s: deepfool_1(net, x, y, 2, 1, 10),
    ),
    "DeepFoolLinf foolbox1": (
        DeepFoolLinf(rule="foolbox1", steps=6),
        lambda net, x, y, s: deepfool_1(net, x, y, math.inf, 6, 10),
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
RANDOM = [
    name for name in CASES if name.startswith(("PGD fixed", "PGDL2", "SinglePixel", "LocalSearch"))
]
CLASSES = sorted({type(attack) for attack, _ in CASES.values()}, key=lambda c: c.__name__)


def plain_loops(*classes: type[Attack]) -> list[tuple[str, str]]:
    """(case, net) of these attacks: all cases on both CNNs, each attack's first on a linear net."""
    cases = {cls: [name for name in CASES if type(CASES[name][0]) is cls] for cls in classes}
    return [(name, net) for cls in classes for name in cases[cls] for net in ("cnn", "rgb")] + [
        (cases[cls][0], "linear") for cls in classes
    ]


def equals_the_plain_loop(batch, name: str, net_name: str) -> None:
    """Assert that a case gives what its oracle gives, image by image."""
    attack, oracle = CASES[name]
    net, x, y = batch(net_name, correct=5, misclassified=0)
    seeds = [1000 + i for i in range(len(x))]
    result = attack(net, x, y, seeds)
    expected = []
    for one, label, seed in zip(x, y, seeds, strict=True):
        z = oracle(net, one, label, seed)
        failed = z is None or (attack.semantics != "fixed" and not fooled(net, z, label))
        expected.append(one if failed else z)
    expected = torch.stack(expected)
    close(result.images, expected)
    assert torch.equal(result.prediction, net(expected).argmax(1))
    assert torch.equal(result.success, result.prediction != y)
    for actual, reference in zip((result.linf, result.l2), norms(expected, x), strict=True):
        close(actual, reference, 1e-6)


def close(actual, expected, atol=1e-9):
    """Without torch.testing, whose import takes as long as torch's own."""
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= atol


def norms(images, x):
    """L∞ and L2 norms of the difference, (B,) each."""
    difference = (images - x).flatten(1)
    return difference.abs().amax(1).float(), difference.square().sum(1).sqrt().float()


def forward_passes(net: nn.Module, work: Callable[[], object]) -> int:
    """How many forward passes of `net` some work takes."""
    calls = []
    hook = net.register_forward_hook(lambda *_: calls.append(1))
    try:
        work()
    finally:
        hook.remove()
    return len(calls)
