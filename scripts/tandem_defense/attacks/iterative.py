"""Many small steps along the sign of the gradient: iterative FGSM, BIM, PGD and MI-FGSM."""

from typing import Literal

import torch
from torch import Tensor

from tandem_defense.attacks.base import (
    Attack,
    at_once,
    each,
    generators,
    gradient,
    logits_of_batch,
    margin,
    predict,
)
from tandem_defense.extras import extra
from tandem_defense.seeds import derive_seed
from tandem_defense.settings import Count, Epsilon, NonNegative, Positive

with extra("pipeline"):
    from foolbox import PyTorchModel

TINY = 1e-12  # Foolbox 2: a mean absolute gradient below it is not scaled up to 1


def ascend(model, z: Tensor, g: Tensor, x: Tensor, y: Tensor, step, bound, decay: float = 0.0):
    """One step from z with the momentum g of the steps before; BIM is decay = 0. Returns z and g.

    g ← μ g + ∇J(z, y) / ‖∇J(z, y)‖₁,    z ← clip(z + α sign g) to ±ε around x and to [0, 1]
    """
    slope = gradient(model, z, y)
    # the mean, which is ‖∇J‖₁ up to the number of pixels
    g = decay * g + slope / each(slope.abs().mean((1, 2, 3)).clamp(min=TINY))
    z = z + step * g.sign()
    return (x + (z - x).clamp(-bound, bound)).clamp(0, 1), g


def last_iterate(
    model, z: Tensor, x: Tensor, y: Tensor, step, bound, steps: int, decay: float = 0.0
) -> Tensor:
    """z after all `steps` steps, whether it then fools or not."""
    g = torch.zeros_like(z)
    for _ in range(steps):
        z, g = ascend(model, z, g, x, y, step, bound, decay)
    return z


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


class IterativeFGSM(Attack):
    """FGSM in several steps, x ← clip(x + α sign ∇ₓ J(x, y)) to [0, 1], from the image itself.

    semantics: "minimal", the closest (L2) adversarial iterate over `line_steps` step sizes
        α = epsilon/steps · i/line_steps, also of those after an image first fools (Foolbox 2's
        IterativeGradientSignAttack); "fixed", the last iterate at α = epsilon/steps.
    epsilon: largest total L∞ size, in [0, 1] pixels; 1 is without a bound.
    line_steps: step sizes on the line; "minimal" only.
    steps: steps of each ascent.
    clip: see :class:`Attack`.

    Raises ValueError for a setting out of range.
    """

    semantics: Literal["minimal", "fixed"] = "minimal"
    epsilon: Epsilon = 8 / 255
    line_steps: Count = 100
    steps: Count = 10

    ONLY_IF = {"line_steps": "semantics == 'minimal'"}

    def run(self, model: PyTorchModel, images: Tensor, labels: Tensor, seeds: list[int]) -> Tensor:
        alpha = self.epsilon / self.steps
        if self.semantics == "fixed":
            return last_iterate(model, images, images, labels, alpha, self.epsilon, self.steps)
        closest = Closest(images)
        rows = torch.arange(len(images), device=images.device)
        line = torch.arange(1, self.line_steps + 1, dtype=torch.float64) / self.line_steps
        for part in line.split(max(1, at_once(images) // len(images))):
            shape = (len(part), len(images))  # k ascents side by side: images at α₁, at α₂, …
            x, y = images.repeat(shape[0], 1, 1, 1), labels.repeat(shape[0])
            step = each((alpha * part).to(images).repeat_interleave(shape[1]))
            z, g = x, torch.zeros_like(x)
            for _ in range(self.steps):
                z, g = ascend(model, z, g, x, y, step, torch.inf)
                fools = predict(model, z) != y
                far = (z - x).flatten(1).norm(dim=1).masked_fill(~fools, torch.inf)
                best = far.view(shape).argmin(0), rows
                closest.see(rows, z.unflatten(0, shape)[best], fools.view(shape)[best])
        return closest.images


class BIM(Attack):
    """Basic iterative method, x ← clip(x + α sign ∇ₓ J(x, y)) to ±ε (Kurakin et al. 2016, eq. 2).

    semantics: "corner", Foolbox 2 without its binary search: an image stops where it first fools,
        and as the default step is larger than ε = 8/255 that is a corner of the ball;
        "minimal", Foolbox 2 with it: the closest (L2) adversarial image of all trials, see
        :meth:`search`; "fixed", Foolbox 3: all steps, whether the image fools or not.
    epsilon: L∞ bound ε, in [0, 1] pixels; for "minimal" only a start (Foolbox: 0.3).
    step_size: α, in [0, 1] pixels; for "minimal" its ratio to ε is kept. None: 0.05 for "minimal"
        and "corner" (Foolbox 2), epsilon/10 for "fixed".
    steps: steps of one ascent.
    binary_search_steps: at most so many growths of ε, then so many halvings; "minimal" only.
    clip: see :class:`Attack`.

    Raises ValueError for a setting out of range.
    """

    semantics: Literal["minimal", "corner", "fixed"] = "corner"
    epsilon: Epsilon = 8 / 255
    step_size: Positive | None = None
    steps: Count = 10
    binary_search_steps: Count = 20

    ONLY_IF = {"binary_search_steps": "semantics == 'minimal'"}
    UNBOUNDED = ("minimal",)

    default_step = 0.05  # Foolbox 2's step for "minimal" and "corner", in [0, 1] pixels
    default_share = 0.1  # the step for "fixed", as a share of epsilon
    decay = 0.0  # no momentum

    @property
    def alpha(self) -> float:
        """The step α for the bound `epsilon`, in [0, 1] pixels."""
        if self.step_size is not None:
            return self.step_size
        return self.default_share * self.epsilon if self.semantics == "fixed" else self.default_step

    def run(self, model: PyTorchModel, images: Tensor, labels: Tensor, seeds: list[int]) -> Tensor:
        if self.semantics == "fixed":
            z, bound = self.start(images, seeds), self.epsilon
            return last_iterate(model, z, images, labels, self.alpha, bound, self.steps, self.decay)
        halvings = self.binary_search_steps if self.semantics == "minimal" else 0
        return self.search(model, images, labels, halvings)

    def start(self, images: Tensor, seeds: list[int]) -> Tensor:
        """Where "fixed" starts, (B, C, H, W)."""
        return images

    def search(self, model: PyTorchModel, images: Tensor, labels: Tensor, k: int) -> Tensor:
        """The closest adversarial image of all trials, the image itself where none fools.

        Foolbox 2's search for ε, where α = ε · step_size / epsilon: grow ε by 1.5 until it fools,
        at most k times, then halve the interval [0, ε] k times. With k = 0 there is one trial, with
        ε = epsilon.
        """
        closest = Closest(images)
        rows = torch.arange(len(images), device=images.device)  # those not yet fooled, (n,)
        good = images.new_full((len(images),), self.epsilon, dtype=torch.float64)
        for _ in range(max(1, k)):
            fooled = self.trial(model, closest, labels, rows, good[rows])
            rows = rows[~fooled]
            good[rows] *= 1.5
        rows = closest.distance.isfinite().nonzero().squeeze(1)  # those fooled, (n,)
        good, bad = good[rows], torch.zeros_like(good[rows])
        for _ in range(k):
            middle = (good + bad) / 2
            fooled = self.trial(model, closest, labels, rows, middle)
            good, bad = torch.where(fooled, middle, good), torch.where(fooled, bad, middle)
        return closest.images

    def trial(
        self, model: PyTorchModel, closest: Closest, labels: Tensor, rows: Tensor, epsilon: Tensor
    ) -> Tensor:
        """One ascent of images `rows`, (n,), each within its `epsilon`, (n,), until it fools.

        What fools is shown to `closest`. Returns which images were fooled, (n,) bool.
        """
        success = torch.zeros_like(rows, dtype=torch.bool)
        left = torch.arange(len(rows), device=rows.device)
        z = closest.start[rows]
        g = torch.zeros_like(z)
        bound = each(epsilon).to(z.dtype)
        step = each(epsilon * (self.alpha / self.epsilon)).to(z.dtype)
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


class PGD(BIM):
    """Projected gradient descent (Madry et al. 2018, eq. 3): BIM with smaller steps.

    semantics: as :class:`BIM`; "fixed" starts at a random point of the ball, drawn from each
        image's own seed (Foolbox 3), "minimal" and "corner" at the image itself (Foolbox 2's
        default).
    step_size: None: 0.01 for "minimal" and "corner" (Foolbox 2), epsilon/30 for "fixed"
        (Foolbox 3).
    restarts: random starts, of which an image's best is kept: that with the smallest margin between
        the label's logit and the next; "fixed" only.

    Other settings, and what is raised, as in :class:`BIM`.
    """

    steps: Count = 40
    restarts: Count = 1

    ONLY_IF = {
        "binary_search_steps": "semantics == 'minimal'",
        "restarts": "semantics == 'fixed'",
    }

    default_step = 0.01
    default_share = 0.01 / 0.3

    def run(self, model: PyTorchModel, images: Tensor, labels: Tensor, seeds: list[int]) -> Tensor:
        best = super().run(model, images, labels, seeds)
        if self.restarts == 1:
            return best
        lowest = margin(logits_of_batch(model, best), labels)
        for i in range(1, self.restarts):
            again = [derive_seed(seed, "restart", str(i)) for seed in seeds]
            tried = super().run(model, images, labels, again)
            found = margin(logits_of_batch(model, tried), labels)
            best = torch.where(each(found < lowest), tried, best)
            lowest = torch.minimum(found, lowest)
        return best

    def start(self, images: Tensor, seeds: list[int]) -> Tensor:
        shape, double = images.shape[1:], torch.float64
        noise = [
            torch.rand(shape, generator=g, dtype=double, device="cpu") for g in generators(seeds)
        ]
        return (images + self.epsilon * (2 * torch.stack(noise) - 1).to(images)).clamp(0, 1)


class MIFGSM(BIM):
    """Momentum iterative FGSM (Dong et al. 2018, alg. 1): x ← clip(x + α sign g) to ±ε, where

        g ← μ g + ∇ₓ J(x, y) / ‖∇ₓ J(x, y)‖₁

    (Foolbox 3.3.4 accumulates sign ∇ₓ J instead.)

    step_size: None: 0.06 for "minimal" and "corner" (Foolbox 2), epsilon/10 for "fixed" (the
        paper's α = ε/T).
    decay: μ, at least 0; 0 is BIM.

    Other settings, and what is raised, as in :class:`BIM`.
    """

    decay: NonNegative = 1.0

    default_step = 0.06
