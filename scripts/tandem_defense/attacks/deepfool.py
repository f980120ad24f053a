"""DeepFool (Moosavi-Dezfooli et al. 2016), as Foolbox 3 has it and as Foolbox 1 and 2 had it."""

from typing import Literal

import torch
from torch import Tensor

from tandem_defense.attacks.base import Attack, each, logits_of, predict
from tandem_defense.extras import extra
from tandem_defense.settings import Count, Fraction

with extra("pipeline"):
    from foolbox import Misclassification, PyTorchModel
    from foolbox.attacks import L2DeepFoolAttack, LinfDeepFoolAttack


class Watch(Misclassification):
    """Foolbox's criterion, which it asks before every step, and when it held first."""

    def __init__(self, labels: Tensor):
        super().__init__(labels)
        self.first = torch.full_like(labels, -1)  # (B,): a step, or -1
        self.steps = 0

    def __call__(self, perturbed, outputs):
        fools = super().__call__(perturbed, outputs)
        self.look(fools.raw)
        return fools

    def look(self, fools: Tensor) -> None:
        """Note which images, (B,) bool, fool after as many steps as there were looks before."""
        self.first[(self.first < 0) & fools] = self.steps
        self.steps += 1


class DeepFoolL2(Attack):
    """Step to the nearest linearized boundary until the class changes (algorithm 2), in L2:

        k̂ = argmin_k |f_k| / ‖w_k‖₂,    r ← r + (|f_k̂| / ‖w_k̂‖₂ + 1e-4) w_k̂ / ‖w_k̂‖₂,
        x' = clip(x + (1 + overshoot) r),    f_k = F_k − F_y,  w_k = ∇ₓ f_k

    That is Foolbox 3. With ``rule: foolbox1``, the rule of Foolbox up to 2.4, each step begins
    where the one before ended, and only classes with f_k < 0 take part:

        x ← clip(x + 1.05 |f_k̂| w_k̂ / ‖w_k̂‖₂²)

    rule: "foolbox3" or "foolbox1".
    steps: most steps; an image stops where it first fools.
    candidates: of the classes the classifier has, those with the largest logits, the true one among
        them; at least 2.
    overshoot: how far beyond the boundary, as a share of the accumulated perturbation; of
        ``foolbox3`` alone, as is the next.
    loss: F, the "logits" or the log-probabilities ("crossentropy", as in Foolbox 2); their
        differences f_k are the same, so the two differ by rounding alone.
    clip: see :class:`Attack`. The attack itself knows no L∞ bound; t-DIPs clips it to ±8/255.

    Raises ValueError for a setting out of range.
    """

    rule: Literal["foolbox1", "foolbox3"] = "foolbox3"
    steps: Count = 50
    candidates: Count = 10
    overshoot: Fraction = 0.02
    loss: Literal["logits", "crossentropy"] = "logits"
    CONDITIONS = {"candidates >= 2": "the true class and another"}
    ONLY_IF = {"overshoot": "rule == 'foolbox3'", "loss": "rule == 'foolbox3'"}

    foolbox = L2DeepFoolAttack

    def run(self, model: PyTorchModel, images: Tensor, labels: Tensor, seeds: list[int]) -> Tensor:
        return self.walk(model, images, labels)[0]

    def walk(self, model: PyTorchModel, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The images after the attack, (B, C, H, W), and after which step each fooled, (B,) int64.

        0 is an image that is misclassified from the start, -1 one that still does not fool after
        the last step. A run with fewer steps fools exactly the images whose step is among them.

        images, labels: as :meth:`run`'s
        """
        if self.rule == "foolbox1":
            return self.walk_foolbox1(model, images, labels)
        attack = self.foolbox(
            steps=self.steps, candidates=self.candidates, overshoot=self.overshoot, loss=self.loss
        )
        watch = Watch(labels)
        x = attack.run(model, images, watch)
        watch.look(predict(model, x) != labels)
        return x, watch.first

    def walk_foolbox1(self, model: PyTorchModel, images: Tensor, labels: Tensor):
        """As :meth:`walk`, by Foolbox 1's rule."""
        ranked = logits_of(model, images).argsort(dim=1, descending=True, stable=True)
        others = ranked[:, 1 : self.candidates]  # an image that is attacked has its label first
        x, watch = images.clone(), Watch(labels)
        # All images are asked at every step, also those that fool already: in another batch the
        # logits could round differently, and an image on a boundary has to stay on its side.
        for _ in range(self.steps):
            watch.look(predict(model, x) != labels)
            rows = (watch.first < 0).nonzero().squeeze(1)
            if not len(rows):
                return x, watch.first
            x[rows] = self.step(model, x[rows], labels[rows], others[rows])
        watch.look(predict(model, x) != labels)
        return x, watch.first

    def step(self, model: PyTorchModel, images: Tensor, labels: Tensor, others: Tensor) -> Tensor:
        """One step towards the nearest of the classes `others`, (B, k); (B, C, H, W)."""
        x = images.detach().requires_grad_()
        logits = model(x)
        f = logits.gather(1, others) - logits.gather(1, labels[:, None])  # (B, k)
        w = torch.stack([torch.autograd.grad(k.sum(), x, retain_graph=True)[0] for k in f.T], 1)
        f, norm = f.detach(), self.dual_norm(w)
        # A class on a par with the true one is at distance 0: a step to it would lead nowhere.
        # Where no class is below, an image stays where it is (Foolbox 1 raised an exception).
        nearest = (f.abs() / norm).masked_fill(~(f < 0), torch.inf).argmin(1, keepdim=True)
        size = (f.abs() / norm).gather(1, nearest).squeeze(1)
        way = self.direction(w[torch.arange(len(x), device=x.device), nearest.squeeze(1)])
        return (images + 1.05 * each(size) * way).clamp(0, 1)

    def dual_norm(self, w: Tensor) -> Tensor:
        """Of gradients (B, k, C, H, W), per class, (B, k)."""
        return w.flatten(2).norm(dim=2) + 1e-8

    def direction(self, w: Tensor) -> Tensor:
        """In which f grows fastest, from gradients (B, C, H, W)."""
        return w / each(w.flatten(1).norm(dim=1) + 1e-8)


class DeepFoolLinf(DeepFoolL2):
    """DeepFool in L∞: k̂ = argmin_k |f_k| / ‖w_k‖₁ and r ← r + (|f_k̂| / ‖w_k̂‖₁ + 1e-4) sign w_k̂.

    ``rule: foolbox1``: x ← clip(x + 1.05 |f_k̂| / ‖w_k̂‖₁ sign w_k̂).
    Settings, and what is raised, as in :class:`DeepFoolL2`.
    """

    foolbox = LinfDeepFoolAttack

    def dual_norm(self, w: Tensor) -> Tensor:
        return w.flatten(2).abs().sum(2) + 1e-8

    def direction(self, w: Tensor) -> Tensor:
        return w.sign()
