"""One gradient, one direction: a step of fixed size, or the smallest step that fools."""

from typing import Literal

import torch
from torch import Tensor

from tandem_defense.attacks.base import Attack, each, first_success, gradient
from tandem_defense.extras import extra
from tandem_defense.settings import Count, Epsilon

with extra("pipeline"):
    from foolbox import PyTorchModel
    from foolbox.attacks import L2FastGradientAttack, LinfFastGradientAttack

EARLY = 20  # Foolbox 2: a success among the first 20 sizes is refined with 20 finer ones


class FGSM(Attack):
    """Fast gradient sign method, x' = clip(x + ε sign ∇ₓ J(x, y)) (Goodfellow et al. 2014, eq. 3).

    semantics: "minimal", the smallest of `line_steps` sizes up to `epsilon` that fools (Foolbox 2);
        "fixed", one step of exactly `epsilon` (Foolbox 3).
    epsilon: L∞ size, the largest on the line for "minimal", in [0, 1] pixels; 1 is without a bound.
    line_steps: sizes on the line; "minimal" only.
    clip: see :class:`Attack`.

    Raises ValueError for a setting out of range.
    """

    semantics: Literal["minimal", "fixed"] = "minimal"
    epsilon: Epsilon = 8 / 255
    line_steps: Count = 1000

    ONLY_IF = {"line_steps": "semantics == 'minimal'"}

    def run(self, model: PyTorchModel, images: Tensor, labels: Tensor, seeds: list[int]) -> Tensor:
        if self.semantics == "fixed":
            return self.fixed(model, images, labels)
        d = self.direction(gradient(model, images, labels))
        size = self.smallest(model, images, labels, d)
        return (images + each(size).to(images) * d).clamp(0, 1)

    def direction(self, gradient: Tensor) -> Tensor:
        """The direction d of ascent that ε scales, (B, C, H, W)."""
        return gradient.sign()

    def fixed(self, model: PyTorchModel, images: Tensor, labels: Tensor) -> Tensor:
        """One step of size ε, (B, C, H, W)."""
        return LinfFastGradientAttack().run(model, images, labels, epsilon=self.epsilon)

    def smallest(self, model: PyTorchModel, images: Tensor, labels: Tensor, d: Tensor) -> Tensor:
        """The smallest ε on a line for which x + ε d fools, (B,) float64; 0 where none does.

        Foolbox 2's search: ε = ε_max i/n, i = 1 … n. A success among the first 20, or none at all,
        starts a second pass of 20 equal parts up to that ε (or up to ε_max).
        """
        top = images.new_full((len(images),), self.epsilon, dtype=torch.float64)
        first = first_on_line(model, images, labels, d, top, self.line_steps)
        early, none = (first >= 0) & (first < EARLY), first < 0
        size = torch.where(none, 0, top * (first + 1) / self.line_steps)
        again = (early | none).nonzero().squeeze(1)
        if len(again):
            top = torch.where(early, size, top)[again]
            finer = first_on_line(model, images[again], labels[again], d[again], top, EARLY)
            size[again] = torch.where(finer >= 0, top * (finer + 1) / EARLY, size[again])
        return size


class Gradient(FGSM):
    """As FGSM, but along the gradient itself: x' = clip(x + ε g / √mean(g²)), g = ∇ₓ J(x, y).

    epsilon: root mean square of the perturbation before it is clipped to [0, 1], in pixels: an L2
        norm of ε √(CHW). "fixed" is Foolbox 3's L2 step of that norm.

    Other settings, and what is raised, as in :class:`FGSM`. Source of the scale: Foolbox 2's
    GradientAttack.
    """

    norm = "l2"

    def direction(self, gradient: Tensor) -> Tensor:
        rms = gradient.square().mean((1, 2, 3)).sqrt()
        return gradient / (each(rms) + 1e-8)

    def fixed(self, model: PyTorchModel, images: Tensor, labels: Tensor) -> Tensor:
        norm = self.epsilon * images[0].numel() ** 0.5
        return L2FastGradientAttack().run(model, images, labels, epsilon=norm)


def first_on_line(model, x: Tensor, y: Tensor, d: Tensor, top: Tensor, count: int) -> Tensor:
    """The first i < count for which x + top (i + 1)/count d fools, (B,); -1 where none does."""

    def candidates(rows: Tensor, i: Tensor) -> Tensor:
        sizes = (top[rows, None] * (i + 1) / count).to(x)  # (n, k)
        moved = x[rows, None] + sizes[..., None, None, None] * d[rows, None]
        return moved.clamp_(0, 1)  # (n, k, C, H, W)

    return first_success(model, x, y, candidates, count)
