"""Many small steps along the sign of the gradient: iterative FGSM, BIM, PGD and MI-FGSM."""

from collections.abc import Sequence
from typing import Literal

import eagerpy as ep
import torch
from foolbox import PyTorchModel
from foolbox.attacks import LinfBasicIterativeAttack, LinfProjectedGradientDescentAttack
from foolbox.attacks.mi_fgsm import LinfMomentumIterativeFastGradientMethod
from foolbox.distances import l2, linf
from torch import Tensor

from tandem_defense.attacks.base import (
    Attack,
    MinimalAttack,
    at_once,
    check,
    each,
    generators_for,
    gradient,
    predict,
)
from tandem_defense.settings import Count, Epsilon, Positive

TINY = 1e-12  # Foolbox 2: a mean absolute gradient below it is not scaled up to 1


class Closest:
    """The closest adversarial image seen so far, in L2, per image (Foolbox 2's bookkeeping)."""

    def __init__(self, images: Tensor):
        self.start, self.images = images, images.clone()
        self.distance = images.new_full((len(images),), torch.inf)

    def see(self, rows: Tensor, images: Tensor, fools: Tensor) -> None:
        """`images` (n, C, H, W) belong to `rows` (n,), each at most once."""
        distance = (images - self.start[rows]).flatten(1).norm(dim=1)
        closer = fools & (distance < self.distance[rows])
        self.images[rows[closer]] = images[closer]
        self.distance[rows[closer]] = distance[closer]


def unit(g: Tensor) -> Tensor:
    """g / mean|g| per image: ∇ / ‖∇‖₁ of Dong et al. up to the number of pixels."""
    return g / each(g.abs().mean((1, 2, 3)).clamp(min=TINY))


def ascend(model, z: Tensor, g: Tensor, x: Tensor, y: Tensor, step, bound, decay: float):
    """One step from z with the momentum g of the steps before; BIM is decay = 0.

    g ← μ g + ∇J(z, y) / ‖∇J(z, y)‖₁,    z ← clip(z + α sign g) to ±ε around x and to [0, 1]
    """
    g = decay * g + unit(gradient(model, z, y))
    z = z + step * g.sign()
    return (x + (z - x).clamp(-bound, bound)).clamp(0, 1), g


class SignDescentAttack(MinimalAttack):
    """Foolbox 2's BIM, PGD (no random start) and MI-FGSM: stop each image where it first fools.

    With `binary_search_steps` = k > 0, ε and α = ε · step_size / epsilon are searched as well:
    grow ε by 1.5 until it fools, at most k times, then halve the interval [0, ε] k times. The
    closest adversarial image of all trials is returned, so `epsilon` is a start, not a bound.
    With k = 0 there is one trial, with ε = epsilon.
    """

    distance = linf

    def __init__(
        self,
        *,
        epsilon: Epsilon = 8 / 255,
        step_size: Positive = 0.05,
        steps: Count = 10,
        decay: float = 0.0,
        binary_search_steps: int = 0,
    ):
        self.epsilon, self.step_size, self.steps = epsilon, step_size, steps
        self.decay, self.binary_search_steps = decay, binary_search_steps

    def search(self, model: PyTorchModel, images: Tensor, labels: Tensor) -> Tensor:
        closest = Closest(images)
        hunted = torch.arange(len(images), device=images.device)
        good = images.new_full((len(images),), self.epsilon, dtype=torch.float64)
        for _ in range(max(1, self.binary_search_steps)):
            fooled = self._trial(model, closest, labels, hunted, good[hunted])
            hunted = hunted[~fooled]
            good[hunted] *= 1.5
        found = closest.distance.isfinite().nonzero().squeeze(1)
        good, bad = good[found], torch.zeros_like(good[found])
        for _ in range(self.binary_search_steps):
            middle = (good + bad) / 2
            fooled = self._trial(model, closest, labels, found, middle)
            good, bad = torch.where(fooled, middle, good), torch.where(fooled, bad, middle)
        return closest.images

    def _trial(self, model, closest: Closest, labels: Tensor, rows: Tensor, epsilon: Tensor):
        """One descent of `rows` (n,) within their `epsilon` (n,); which were fooled, (n,) bool."""
        success = torch.zeros_like(rows, dtype=torch.bool)
        left = torch.arange(len(rows), device=rows.device)
        z = closest.start[rows]
        g = torch.zeros_like(z)
        bound = each(epsilon).to(z.dtype)
        step = each(epsilon * (self.step_size / self.epsilon)).to(z.dtype)
        for _ in range(self.steps):
            if not len(left):
                break
            x, y = closest.start[rows[left]], labels[rows[left]]
            z, g = ascend(model, z, g, x, y, step[left], bound[left], self.decay)
            fools = predict(model, z) != y
            closest.see(rows[left], z, fools)
            success[left[fools]] = True
            left, z, g = left[~fools], z[~fools], g[~fools]
        return success


class IterativeLineSearchAttack(MinimalAttack):
    """Foolbox 2's iterative gradient sign attack: the closest adversarial image of all descents.

    One descent of `steps` steps for each step size α = ε/steps · i/n, i = 1 … n, and every iterate
    counts, also those after an image first fools.
    """

    distance = l2

    def __init__(self, *, epsilon: Epsilon = 8 / 255, line_steps: Count = 100, steps: Count = 10):
        self.epsilon, self.line_steps, self.steps = epsilon, line_steps, steps

    def search(self, model: PyTorchModel, images: Tensor, labels: Tensor) -> Tensor:
        closest = Closest(images)
        rows = torch.arange(len(images), device=images.device)
        line = torch.arange(1, self.line_steps + 1, dtype=torch.float64) / self.line_steps
        for part in line.split(max(1, at_once(images) // len(images))):
            shape = (len(part), len(images))  # k descents side by side: images at α₁, at α₂, …
            x, y = images.repeat(shape[0], 1, 1, 1), labels.repeat(shape[0])
            step = (self.epsilon / self.steps * part).to(images).repeat_interleave(shape[1])
            z, g = x, torch.zeros_like(x)
            for _ in range(self.steps):
                z, g = ascend(model, z, g, x, y, each(step), torch.inf, decay=0.0)
                fools = predict(model, z) != y
                far = (z - x).flatten(1).norm(dim=1).masked_fill(~fools, torch.inf)
                best = far.view(shape).argmin(0), rows
                closest.see(rows, z.unflatten(0, shape)[best], fools.view(shape)[best])
        return closest.images


class SeededPGDAttack(LinfProjectedGradientDescentAttack):
    """Foolbox 3's PGD, whose random start comes from one generator per image."""

    def __init__(self, *, seeds: Sequence[int] | None = None, **settings):
        super().__init__(**settings)
        self.seeds = seeds

    def get_random_start(self, x0: ep.Tensor, epsilon: float) -> ep.Tensor:
        generators = generators_for(self.seeds, len(x0))
        shape, double = x0.shape[1:], torch.float64
        noise = torch.stack([torch.rand(shape, generator=g, dtype=double) for g in generators])
        return x0 + epsilon * ep.astensor((2 * noise - 1).to(x0.raw))


class L1MomentumAttack(LinfMomentumIterativeFastGradientMethod):
    """MI-FGSM as published: Foolbox 3.3.4 accumulates sign ∇, here it is ∇ / ‖∇‖₁."""

    def normalize(self, gradients: ep.Tensor, *, x, bounds) -> ep.Tensor:
        return ep.astensor(unit(gradients.raw))


class IterativeFGSM(Attack):
    """FGSM in several steps, x ← clip(x + α sign ∇ₓ J(x, y)) to [0, 1], from the image itself.

    semantics: "minimal", the closest (L2) adversarial iterate over `line_steps` step sizes up to
        epsilon/steps (Foolbox 2's IterativeGradientSignAttack); "fixed", the last iterate at
        α = epsilon/steps.
    epsilon: largest total L∞ size, in [0, 1] pixels; 1 is without a bound.
    line_steps: step sizes on the line; "minimal" only.
    steps: steps of each descent.
    clip: see :class:`Attack`.

    Raises ValueError for a setting out of range.
    """

    def __init__(
        self,
        *,
        semantics: Literal["minimal", "fixed"] = "minimal",
        epsilon: Epsilon = 8 / 255,
        line_steps: Count = 100,
        steps: Count = 10,
        clip: Epsilon | None = None,
    ):
        super().__init__(clip=clip)
        check(("minimal", "fixed"), semantics=semantics)
        check("Epsilon", epsilon=epsilon)
        check("Count", line_steps=line_steps, steps=steps)
        self.semantics, self.epsilon = semantics, epsilon
        self.line_steps, self.steps = line_steps, steps

    def run(
        self, model: PyTorchModel, images: Tensor, labels: Tensor, seeds: Sequence[int]
    ) -> Tensor:
        if self.semantics == "fixed":
            step = self.epsilon / self.steps
            attack = LinfBasicIterativeAttack(abs_stepsize=step, steps=self.steps)
            return attack.run(model, images, labels, epsilon=self.epsilon)
        line = IterativeLineSearchAttack(
            epsilon=self.epsilon, line_steps=self.line_steps, steps=self.steps
        )
        return line.run(model, images, labels)


class SignDescent(Attack):
    """What BIM, PGD and MI-FGSM share: their three semantics."""

    default_step = 0.05  # Foolbox 2's step for "minimal" and "corner", in [0, 1] pixels
    default_share = 0.1  # the step for "fixed", as a share of epsilon
    decay = 0.0

    def _set(self, semantics: str, epsilon, step_size, steps, binary_search_steps) -> None:
        check(("minimal", "corner", "fixed"), semantics=semantics)
        check("Epsilon", epsilon=epsilon)
        if step_size is None:
            step_size = self.default_share * epsilon if semantics == "fixed" else self.default_step
        check("Positive", step_size=step_size)
        check("Count", steps=steps, binary_search_steps=binary_search_steps)
        self.semantics, self.epsilon, self.step_size = semantics, epsilon, step_size
        self.steps, self.binary_search_steps = steps, binary_search_steps

    def run(
        self, model: PyTorchModel, images: Tensor, labels: Tensor, seeds: Sequence[int]
    ) -> Tensor:
        if self.semantics == "fixed":
            return self.fixed(seeds).run(model, images, labels, epsilon=self.epsilon)
        descent = SignDescentAttack(
            epsilon=self.epsilon,
            step_size=self.step_size,
            steps=self.steps,
            decay=self.decay,
            binary_search_steps=self.binary_search_steps if self.semantics == "minimal" else 0,
        )
        return descent.run(model, images, labels)

    def fixed(self, seeds: Sequence[int]) -> LinfBasicIterativeAttack:
        """The attack that spends the whole budget."""
        return LinfBasicIterativeAttack(abs_stepsize=self.step_size, steps=self.steps)


class BIM(SignDescent):
    """Basic iterative method, x ← clip(x + α sign ∇ₓ J(x, y)) to ±ε (Kurakin et al. 2016, eq. 2).

    semantics: "corner", Foolbox 2 without its binary search: an image stops where it first fools,
        and as the default step is larger than ε = 8/255 that is a corner of the ball;
        "minimal", Foolbox 2 with it: the closest (L2) adversarial image of all trials, see
        :class:`SignDescentAttack`; "fixed", Foolbox 3: all steps, whether the image fools or not.
    epsilon: L∞ bound ε, in [0, 1] pixels; for "minimal" only a start (Foolbox: 0.3).
    step_size: α, in [0, 1] pixels; for "minimal" its ratio to ε is kept. None: 0.05 for "minimal"
        and "corner" (Foolbox 2), epsilon/10 for "fixed".
    steps: steps of one descent.
    binary_search_steps: at most so many growths of ε, then so many halvings; "minimal" only.
    clip: see :class:`Attack`.

    Raises ValueError for a setting out of range.
    """

    def __init__(
        self,
        *,
        semantics: Literal["minimal", "corner", "fixed"] = "corner",
        epsilon: Epsilon = 8 / 255,
        step_size: Positive | None = None,
        steps: Count = 10,
        binary_search_steps: Count = 20,
        clip: Epsilon | None = None,
    ):
        super().__init__(clip=clip)
        self._set(semantics, epsilon, step_size, steps, binary_search_steps)


class PGD(SignDescent):
    """Projected gradient descent (Madry et al. 2018, eq. 3): BIM with smaller steps.

    semantics: as :class:`BIM`; "fixed" starts at a random point of the ball, one generator per
        image (Foolbox 3), "minimal" and "corner" at the image itself (Foolbox 2's default).
    step_size: None: 0.01 for "minimal" and "corner" (Foolbox 2), epsilon/30 for "fixed"
        (Foolbox 3).

    Other settings, and what is raised, as in :class:`BIM`.
    """

    default_step = 0.01
    default_share = 0.01 / 0.3

    def __init__(
        self,
        *,
        semantics: Literal["minimal", "corner", "fixed"] = "corner",
        epsilon: Epsilon = 8 / 255,
        step_size: Positive | None = None,
        steps: Count = 40,
        binary_search_steps: Count = 20,
        clip: Epsilon | None = None,
    ):
        super().__init__(clip=clip)
        self._set(semantics, epsilon, step_size, steps, binary_search_steps)

    def fixed(self, seeds: Sequence[int]) -> SeededPGDAttack:
        return SeededPGDAttack(seeds=seeds, abs_stepsize=self.step_size, steps=self.steps)


class MIFGSM(SignDescent):
    """Momentum iterative FGSM (Dong et al. 2018, alg. 1): x ← clip(x + α sign g) to ±ε, where

        g ← μ g + ∇ₓ J(x, y) / ‖∇ₓ J(x, y)‖₁

    step_size: None: 0.06 for "minimal" and "corner" (Foolbox 2), epsilon/10 for "fixed" (the
        paper's α = ε/T).
    decay: μ, at least 0; 0 is BIM.

    Other settings, and what is raised, as in :class:`BIM`.
    """

    default_step = 0.06

    def __init__(
        self,
        *,
        semantics: Literal["minimal", "corner", "fixed"] = "corner",
        epsilon: Epsilon = 8 / 255,
        step_size: Positive | None = None,
        steps: Count = 10,
        decay: float = 1.0,
        binary_search_steps: Count = 20,
        clip: Epsilon | None = None,
    ):
        super().__init__(clip=clip)
        self._set(semantics, epsilon, step_size, steps, binary_search_steps)
        check("float", minimum=0, decay=decay)
        self.decay = decay

    def fixed(self, seeds: Sequence[int]) -> L1MomentumAttack:
        return L1MomentumAttack(momentum=self.decay, abs_stepsize=self.step_size, steps=self.steps)
