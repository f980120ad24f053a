"""DeepFool (Moosavi-Dezfooli et al. 2016), as Foolbox 3 has it."""

from typing import Literal

from torch import Tensor

from tandem_defense.attacks.base import Attack
from tandem_defense.extras import extra
from tandem_defense.settings import Count, Fraction

with extra("pipeline"):
    from foolbox import PyTorchModel
    from foolbox.attacks import L2DeepFoolAttack, LinfDeepFoolAttack


class DeepFoolL2(Attack):
    """Step to the nearest linearized boundary until the class changes (algorithm 2), in L2:

        k̂ = argmin_k |f_k| / ‖w_k‖₂,    r ← r + (|f_k̂| / ‖w_k̂‖₂ + 1e-4) w_k̂ / ‖w_k̂‖₂,
        x' = clip(x + (1 + overshoot) r),    f_k = F_k − F_y,  w_k = ∇ₓ f_k

    steps: most steps; an image stops where it first fools.
    candidates: of the classes the classifier has, those with the largest logits, the true one among
        them; at least 2.
    overshoot: how far beyond the boundary, as a share of the accumulated perturbation.
    loss: F, the "logits" or the log-probabilities ("crossentropy", as in Foolbox 2); their
        differences f_k are the same, so the two differ by rounding alone.
    clip: see :class:`Attack`. The attack itself knows no L∞ bound; t-DIPs clips it to ±8/255.

    Raises ValueError for a setting out of range.
    """

    steps: Count = 50
    candidates: Count = 10
    overshoot: Fraction = 0.02
    loss: Literal["logits", "crossentropy"] = "logits"
    CONDITIONS = {"candidates >= 2": "the true class and another"}

    foolbox = L2DeepFoolAttack

    def run(self, model: PyTorchModel, images: Tensor, labels: Tensor, seeds: list[int]) -> Tensor:
        attack = self.foolbox(
            steps=self.steps, candidates=self.candidates, overshoot=self.overshoot, loss=self.loss
        )
        return attack.run(model, images, labels)


class DeepFoolLinf(DeepFoolL2):
    """DeepFool in L∞: k̂ = argmin_k |f_k| / ‖w_k‖₁ and r ← r + (|f_k̂| / ‖w_k̂‖₁ + 1e-4) sign w_k̂.

    Settings, and what is raised, as in :class:`DeepFoolL2`.
    """

    foolbox = LinfDeepFoolAttack
