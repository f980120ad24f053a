"""Attacks that look at logits alone and change few pixels; Foolbox 3 has neither."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from tandem_defense.attacks.base import (
    Attack,
    at_once,
    first_success,
    generators,
    logits_of,
    predict,
)
from tandem_defense.extras import extra
from tandem_defense.settings import Count, Positive

with extra("pipeline"):
    from foolbox import PyTorchModel

START_SHARE = 0.1  # local search starts from this share of the pixels (Foolbox 2)


class SinglePixel(Attack):
    """One pixel, in all channels, to 0 or to 1: the first of a random order that fools.

    Source: Foolbox 2's SinglePixelAttack. Where an image has at most `max_pixels` pixels (MNIST:
    784) every pixel is tried. One draw per image, from its own seed.

    max_pixels: pixels tried per image, each first with 0, then with 1.
    clip: see :class:`Attack`.

    Raises ValueError for a setting out of range.
    """

    max_pixels: Count = 1000

    def run(self, model: PyTorchModel, images: Tensor, labels: Tensor, seeds: list[int]) -> Tensor:
        pixels = images[0, 0].numel()
        order = torch.stack(
            [torch.randperm(pixels, generator=g, device="cpu") for g in generators(seeds)]
        )
        order = order[:, : self.max_pixels].to(images.device)  # (B, m)

        def candidates(rows: Tensor, i: Tensor) -> Tensor:
            tried = images[rows, None].flatten(3).repeat(1, len(i), 1, 1)  # (n, k, C, HW)
            chosen = order[rows][:, i // 2, None, None].expand(-1, -1, tried.shape[2], -1)
            values = (i % 2).to(images)[None, :, None, None].expand_as(chosen)
            return tried.scatter_(3, chosen, values).unflatten(3, images.shape[2:])

        first = first_success(model, images, labels, candidates, 2 * order.shape[1])
        attacked = images.clone().flatten(2)  # (B, C, HW)
        hit = (first >= 0).nonzero().squeeze(1)
        attacked[hit, :, order[hit, first[hit] // 2]] = (first[hit, None] % 2).to(images)
        return attacked.view_as(images)


class LocalSearch(Attack):
    """Greedy local search (Narodytska and Kasiviswanathan 2016, algorithm LocSearchAdv).

    With x centered, in [−1/2, 1/2], a round scores each candidate pixel by the true class's
    probability after it alone was set to p · sign(x), picks t pixels, and moves each of them for
    good to r · x, wrapped around into [−1/2, 1/2]. The next round's candidates are the squares of
    side 2d + 1 around them.

    Source: Foolbox 2's LocalSearchAttack, with its starting pixels: 10 % of the image's, at most
    `start_pixels`. Random draws come from each image's own seed.

    r: factor of a chosen pixel's centered value, in (0, 2]; beyond ±1/2 it wraps around.
    p: centered value that probes a pixel; 10 is far outside [0, 1] on purpose.
    d: half side of the squares that contain the next candidates, in pixels.
    t: pixels moved per round.
    rounds: most rounds; an image stops where it first fools.
    start_pixels: most candidates per round, and most at the start.
    order: "foolbox", the pixels that leave the true class most likely (Foolbox 2.1 to 2.4);
        "paper", least likely (Foolbox up to 2.0).
    clip: see :class:`Attack`.

    Raises ValueError for a setting out of range.
    """

    r: Positive = 1.5
    p: Positive = 10.0
    d: Count = 5
    t: Count = 5
    rounds: Count = 150
    start_pixels: Count = 128
    order: Literal["foolbox", "paper"] = "foolbox"

    CONDITIONS = {"r <= 2": "a pixel beyond ±1 would wrap around more than once"}

    def run(self, model: PyTorchModel, images: Tensor, labels: Tensor, seeds: list[int]) -> Tensor:
        shape, pixels = images.shape[1:], images[0, 0].numel()
        random = generators(seeds)
        attacked = images.clone()
        rows = torch.arange(len(images), device=images.device)  # those not yet fooled, (n,)
        x = images.flatten(2) - 0.5  # (n, C, HW)
        moved = torch.zeros_like(x[:, 0], dtype=torch.bool)  # (n, HW)
        candidates = torch.ones_like(moved)  # (n, HW)
        count = min(max(1, int(START_SHARE * pixels)), self.start_pixels)
        for _ in range(self.rounds):
            drawn, valid = draw(candidates, count, [random[i] for i in rows.tolist()])
            scores = self._scores(model, x, drawn, valid, labels[rows], shape)
            chosen = self._choose(scores, drawn, valid, moved)
            x = torch.where(chosen[:, None], self._wrap(self.r * x), x)
            moved = moved | chosen
            # a pixel that never moved keeps its exact value, which x − 1/2 + 1/2 would round
            now = torch.where(moved[:, None], x + 0.5, images[rows].flatten(2))
            now = now.clamp(0, 1).unflatten(2, shape[1:])
            fools = predict(model, now) != labels[rows]
            attacked[rows[fools]] = now[fools]
            rows, x, moved, chosen = (of[~fools] for of in (rows, x, moved, chosen))
            if not len(rows):
                break
            marks = chosen.unflatten(1, (1, *shape[1:])).to(x)  # (n, 1, H, W)
            candidates = F.max_pool2d(marks, 2 * self.d + 1, 1, self.d).flatten(1).bool()
            count = self.start_pixels
        return attacked

    def _scores(self, model, x: Tensor, drawn: Tensor, valid: Tensor, labels: Tensor, shape):
        """Probability of the true class once a drawn pixel is p · sign(x), (n, m)."""
        scores = x.new_zeros(drawn.shape)
        row, place = valid.nonzero(as_tuple=True)
        size = at_once(x)
        for a, b in zip(row.split(size), place.split(size), strict=True):
            one, pixel = torch.arange(len(a), device=a.device), drawn[a, b]
            tried = x[a]  # (k, C, HW)
            tried[one, :, pixel] = self.p * tried[one, :, pixel].sign()
            logits = logits_of(model, (tried + 0.5).view(-1, *shape))
            scores[a, b] = logits.softmax(1)[one, labels[a]].to(scores)
        return scores

    def _choose(self, scores: Tensor, drawn: Tensor, valid: Tensor, moved: Tensor) -> Tensor:
        """The t pixels that leave the true class most ("foolbox") or least likely, (n, HW) bool."""
        most = self.order == "foolbox"
        scores = scores.masked_fill(~valid, -torch.inf if most else torch.inf)
        order = scores.argsort(dim=1, stable=True)
        best = order[:, -self.t :] if most else order[:, : self.t]
        return torch.zeros_like(moved).scatter(1, drawn.gather(1, best), valid.gather(1, best))

    @staticmethod
    def _wrap(x: Tensor) -> Tensor:
        """x in [−1, 1] wrapped into [−1/2, 1/2], once around."""
        return x + (x < -0.5).to(x) - (x > 0.5).to(x)


def draw(candidates: Tensor, count: int, generators: list[torch.Generator]):
    """At most `count` of each row's candidates, (n, HW) bool, in random order.

    Returns their indices, (n, m), and which of those count, (n, m) bool: rows may have fewer.
    """
    pixels = candidates.shape[1]
    keys = [torch.rand(pixels, generator=g, dtype=torch.float64, device="cpu") for g in generators]
    keys = torch.stack(keys).to(candidates.device).masked_fill(~candidates, torch.inf)
    keys, drawn = keys.topk(min(count, pixels), largest=False, sorted=True)
    return drawn, keys.isfinite()
