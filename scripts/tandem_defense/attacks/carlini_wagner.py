"""The attack of Carlini and Wagner (2017) in L2, as Foolbox 3 has it, without its pitfalls."""

import torch
from torch import Tensor

from tandem_defense.attacks.base import Attack, each
from tandem_defense.extras import extra
from tandem_defense.settings import Count, NonNegative, Positive

with extra("pipeline"):
    from foolbox import PyTorchModel
    from foolbox.attacks import L2CarliniWagnerAttack


class CarliniWagnerL2(Attack):
    """min_w ‖x' − x‖₂² + c max(Z_y − max_{k≠y} Z_k + κ, 0),  x' = (1 + tanh w)/2,  by Adam.

    The closest adversarial x' of all steps and all c counts; c is searched per image, by 10 upward
    until one fools and by halving between the largest that failed and the smallest that fooled.
    Never stops early, as Foolbox's test for that looks at the whole batch. An image for which no c
    fools comes back unchanged (Foolbox 3 returns a black one).

    binary_search_steps: values of c tried.
    steps: steps of Adam for each c.
    step_size: its learning rate, in units of w.
    initial_const: the first c.
    confidence: κ, by how much another logit has to exceed the true class's.
    clip: see :class:`Attack`. The attack minimizes L2 and knows no L∞ bound.

    Raises ValueError for a setting out of range. The defaults are Foolbox 2's.
    """

    binary_search_steps: Count = 5
    steps: Count = 1000
    step_size: Positive = 5e-3
    initial_const: Positive = 1e-2
    confidence: NonNegative = 0

    def run(self, model: PyTorchModel, images: Tensor, labels: Tensor, seeds: list[int]) -> Tensor:
        attack = L2CarliniWagnerAttack(
            binary_search_steps=self.binary_search_steps,
            steps=self.steps,
            stepsize=self.step_size,
            initial_const=self.initial_const,
            confidence=self.confidence,
            abort_early=False,
        )
        attacked = attack.run(model, images, labels)
        black = attacked.flatten(1).eq(0).all(1)  # a black image may well be "adversarial"
        return torch.where(each(black), images, attacked)
