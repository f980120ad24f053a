"""Iterative FGSM, BIM, PGD and MI-FGSM: three semantics, and Foolbox's own where they agree."""

import eagerpy as ep
import pytest
import torch
from attack_cases import equals_the_plain_loop, plain_loops
from attack_oracles import pgd_start
from foolbox import PyTorchModel
from foolbox.attacks import LinfBasicIterativeAttack, LinfProjectedGradientDescentAttack
from foolbox.attacks.mi_fgsm import LinfMomentumIterativeFastGradientMethod

from tandem_defense.attacks.gradient import FGSM
from tandem_defense.attacks.iterative import BIM, MIFGSM, PGD, IterativeFGSM


@pytest.mark.parametrize(("name", "net"), plain_loops(IterativeFGSM, BIM, PGD, MIFGSM))
def test_equals_the_plain_loop(batch, name, net):
    equals_the_plain_loop(batch, name, net)


def test_semantics_bind_as_the_papers_say(batch):
    net, x, y = batch(misclassified=0)
    corner = BIM(epsilon=0.08, step_size=0.1)(net, x, y)  # a step beyond ε ends on a corner
    assert corner.success.any() and (corner.linf[corner.success] - 0.08).abs().max() < 1e-6
    minimal = BIM(semantics="minimal", epsilon=0.01)(net, x, y)
    assert minimal.success.all() and (minimal.linf > 0.01).any()  # a start, not a bound
    fixed = FGSM(semantics="fixed", epsilon=0.06)(net, x, y)
    assert torch.allclose(fixed.linf, torch.tensor(0.06))
    assert (FGSM(epsilon=0.06)(net, x, y).linf <= 0.06 + 1e-7).all()


def test_foolbox_momentum_is_another_attack(batch):
    """Foolbox 3.3.4 accumulates signs: once that is fixed, ours and Foolbox's should agree."""
    net, x, y = batch(misclassified=0)
    settings = {"momentum": 1.0, "abs_stepsize": 0.012, "steps": 20}
    model = PyTorchModel(net, bounds=(0, 1), device="cpu")
    theirs = LinfMomentumIterativeFastGradientMethod(**settings)
    ours = MIFGSM(semantics="fixed", epsilon=0.12, steps=20)(net, x, y).images
    assert (theirs.run(model, x, y, epsilon=0.12) - ours).abs().max() > 1e-3


FOOLBOX = {
    "BIM": (
        BIM(semantics="fixed", epsilon=0.06, step_size=0.02),
        LinfBasicIterativeAttack(abs_stepsize=0.02),
    ),
    "IterativeFGSM": (
        IterativeFGSM(semantics="fixed", epsilon=0.06),
        LinfBasicIterativeAttack(abs_stepsize=0.006),
    ),
    "PGD": (PGD(semantics="fixed", epsilon=0.06), LinfProjectedGradientDescentAttack()),
}


@pytest.mark.parametrize("name", FOOLBOX)
def test_fixed_is_foolbox_3(batch, monkeypatch, name):
    """To the last bit, once PGD starts from the same points."""
    ours, theirs = FOOLBOX[name]
    net, x, y = batch(misclassified=0)
    starts = torch.stack([pgd_start(image, 0.06, seed) for seed, image in enumerate(x)])
    monkeypatch.setattr(theirs, "get_random_start", lambda x0, epsilon: ep.astensor(starts))
    model = PyTorchModel(net, bounds=(0, 1), device="cpu")
    result = ours(net, x, y)
    assert torch.equal(result.images, theirs.run(model, x, y, epsilon=0.06))
    assert result.success.any()


@pytest.mark.parametrize(
    ("attack", "alpha"),
    [
        (BIM(epsilon=0.1), 0.05),
        (PGD(semantics="minimal", epsilon=0.1), 0.01),
        (MIFGSM(epsilon=0.1), 0.06),
        (BIM(semantics="fixed", epsilon=0.1), 0.1 / 10),
        (PGD(semantics="fixed", epsilon=0.1), 0.1 / 30),
        (MIFGSM(semantics="fixed", epsilon=0.1), 0.1 / 10),
        (PGD(semantics="fixed", epsilon=0.1, step_size=0.02), 0.02),
    ],
    ids=repr,
)
def test_default_steps(attack, alpha):
    assert attack.alpha == pytest.approx(alpha)
