"""One gradient, one direction: a step of fixed size, or the smallest step that fools."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal

import torch
from foolbox import PyTorchModel
from foolbox.attacks import L2FastGradientAttack, LinfFastGradientAttack
from foolbox.distances import l2, linf
from torch import Tensor

from tandem_defense.attacks.base import Attack, MinimalAttack, check, each, first_success, gradient
from tandem_defense.settings import Count, Epsilon

EARLY = 20  # Foolbox 2: a success among the first 20 sizes is refined with 20 finer ones


class LineSearchAttack(MinimalAttack):
    """x' = clip(x + ε d(∇ₓ J(x, y))) with the smallest ε of a line that fools.

    Foolbox 2's search: ε = ε_max i/n, i = 1 … n. A success among the first 20, or none at all,
    starts a second pass of 20 equal parts up to that ε (or up to ε_max).
    """

    def __init__(self, *, epsilon: Epsilon = 8 / 255, line_steps: Count = 1000):
        self.epsilon, self.line_steps = epsilon, line_steps

    @abstractmethod
    def direction(self, gradient: Tensor) -> Tensor:
        """The direction of ascent that ε scales, (B, C, H, W)."""

    def search(self, model: PyTorchModel, images: Tensor, labels: Tensor) -> Tensor:
        d = self.direction(gradient(model, images, labels))
        top = images.new_full((len(images),), self.epsilon, dtype=torch.float64)
        size = torch.zeros_like(top)  # 0 leaves an image as it is
        first = self._first(model, images, labels, d, top, self.line_steps)
        early, none = (first >= 0) & (first < EARLY), first < 0
        size = torch.where(none, size, top * (first + 1) / self.line_steps)
        again = (early | none).nonzero().squeeze(1)
        if len(again):
            top = torch.where(early, size, top)[again]
            finer = self._first(model, images[again], labels[again], d[again], top, EARLY)
            size[again] = torch.where(finer >= 0, top * (finer + 1) / EARLY, size[again])
        return (images + each(size).to(images) * d).clamp(0, 1)

    @staticmethod
    def _first(model, x: Tensor, y: Tensor, d: Tensor, top: Tensor, count: int) -> Tensor:
        def candidates(rows: Tensor, i: Tensor) -> Tensor:
            sizes = (top[rows, None] * (i + 1) / count).to(x)  # (n, k)
            moved = x[rows, None] + sizes[..., None, None, None] * d[rows, None]
            return moved.clamp_(0, 1)  # (n, k, C, H, W)

        return first_success(model, x, y, candidates, count)


class LinfLineSearchAttack(LineSearchAttack):
    """Along the sign of the gradient: ε is the L∞ size."""

    distance = linf

    def direction(self, gradient: Tensor) -> Tensor:
        return gradient.sign()


class L2LineSearchAttack(LineSearchAttack):
    """Along the gradient over its root mean square (plus 1e-8): ε is the RMS size, L2 / √(CHW)."""

    distance = l2

    def direction(self, gradient: Tensor) -> Tensor:
        return gradient / (each(rms(gradient)) + 1e-8)


def rms(values: Tensor) -> Tensor:
    """Root mean square of each image's values, (B,)."""
    return values.square().mean((1, 2, 3)).sqrt()


class FGSM(Attack):
    """Fast gradient sign method, x' = clip(x + ε sign ∇ₓ J(x, y)) (Goodfellow et al. 2014, eq. 3).

    semantics: "minimal", the smallest of `line_steps` sizes up to `epsilon` that fools (Foolbox 2);
        "fixed", one step of exactly `epsilon` (Foolbox 3).
    epsilon: L∞ size, the largest on the line for "minimal", in [0, 1] pixels; 1 is without a bound.
    line_steps: sizes on the line; "minimal" only.
    clip: see :class:`Attack`.

    Raises ValueError for a setting out of range.
    """

    def __init__(
        self,
        *,
        semantics: Literal["minimal", "fixed"] = "minimal",
        epsilon: Epsilon = 8 / 255,
        line_steps: Count = 1000,
        clip: Epsilon | None = None,
    ):
        super().__init__(clip=clip)
        check(("minimal", "fixed"), semantics=semantics)
        check("Epsilon", epsilon=epsilon)
        check("Count", line_steps=line_steps)
        self.semantics, self.epsilon, self.line_steps = semantics, epsilon, line_steps

    def run(
        self, model: PyTorchModel, images: Tensor, labels: Tensor, seeds: Sequence[int]
    ) -> Tensor:
        if self.semantics == "fixed":
            return LinfFastGradientAttack().run(model, images, labels, epsilon=self.epsilon)
        line = LinfLineSearchAttack(epsilon=self.epsilon, line_steps=self.line_steps)
        return line.run(model, images, labels)


class Gradient(FGSM):
    """As FGSM, but along the gradient itself: x' = clip(x + ε g / √mean(g²)), g = ∇ₓ J(x, y).

    epsilon: root mean square of the perturbation before it is clipped to [0, 1], in pixels: an L2
        norm of ε √(CHW). "fixed" is Foolbox 3's L2 step of that norm.

    Other settings, and what is raised, as in :class:`FGSM`. Source of the scale: Foolbox 2's
    GradientAttack.
    """

    def __init__(
        self,
        *,
        semantics: Literal["minimal", "fixed"] = "minimal",
        epsilon: Epsilon = 8 / 255,
        line_steps: Count = 1000,
        clip: Epsilon | None = None,
    ):
        super().__init__(semantics=semantics, epsilon=epsilon, line_steps=line_steps, clip=clip)

    def run(
        self, model: PyTorchModel, images: Tensor, labels: Tensor, seeds: Sequence[int]
    ) -> Tensor:
        if self.semantics == "fixed":
            norm = self.epsilon * images[0].numel() ** 0.5
            return L2FastGradientAttack().run(model, images, labels, epsilon=norm)
        line = L2LineSearchAttack(epsilon=self.epsilon, line_steps=self.line_steps)
        return line.run(model, images, labels)
