"""Attacks without gradients on a fixed budget: random noise, and Square."""

import torch
from torch import Tensor

from tandem_defense.attacks.base import Attack, each, generators, logits_of_batch, margin
from tandem_defense.device import DRAWN
from tandem_defense.extras import extra
from tandem_defense.settings import Count, Epsilon, Fraction

with extra("pipeline"):
    from foolbox import PyTorchModel


class Noise(Attack):
    """Uniform noise: every value of every image moves by up to ε, whether that fools or not.

    epsilon: L∞ bound ε, in [0, 1] pixels.
    clip: see :class:`Attack`.

    Raises ValueError for a setting out of range.
    """

    epsilon: Epsilon = 8 / 255

    semantics = "fixed"

    def run(self, model: PyTorchModel, images: Tensor, labels: Tensor, seeds: list[int]) -> Tensor:
        noise = [torch.rand(images.shape[1:], generator=g, **DRAWN) for g in generators(seeds)]
        return (images + self.epsilon * (2 * torch.stack(noise) - 1).to(images)).clamp(0, 1)


class Square(Attack):
    """Square attack in L∞: random squares of ±ε, kept where the margin falls.

    Source: Andriushchenko et al. 2020, algorithms 1 and 2, with the authors' schedule of sizes.
    An image is a query each step, also after it fools; the last accepted one is the result.

    epsilon: L∞ bound ε, in [0, 1] pixels.
    queries: forward passes per image.
    share: of the image that the first squares cover, p of the paper.
    clip: see :class:`Attack`.

    Raises ValueError for a setting out of range.
    """

    epsilon: Epsilon = 8 / 255
    queries: Count = 1000
    share: Fraction = 0.8

    semantics = "fixed"

    def run(self, model: PyTorchModel, images: Tensor, labels: Tensor, seeds: list[int]) -> Tensor:
        sources = generators(seeds)
        channels, height, width = images.shape[1:]

        def signs(source: torch.Generator, *shape: int) -> Tensor:
            return 2 * torch.randint(2, shape, generator=source, device="cpu").float() - 1

        stripes = torch.stack([signs(g, channels, 1, width) for g in sources]).to(images)
        best = (images + self.epsilon * stripes).clamp(0, 1)
        lowest = margin(logits_of_batch(model, best), labels)
        for query in range(1, self.queries):
            side = self.side(query, height, width)
            tried = best.clone()
            for i, g in enumerate(sources):
                top = int(torch.randint(height - side + 1, (1,), generator=g, device="cpu"))
                left = int(torch.randint(width - side + 1, (1,), generator=g, device="cpu"))
                sign = signs(g, channels, 1, 1).to(images)
                where = (i, slice(None), slice(top, top + side), slice(left, left + side))
                tried[where] = (images[where] + self.epsilon * sign).clamp(0, 1)
            found = margin(logits_of_batch(model, tried), labels)
            better = found < lowest
            best = torch.where(each(better), tried, best)
            lowest = torch.where(better, found, lowest)
        return best

    def side(self, query: int, height: int, width: int) -> int:
        """The side of a square, which is halved in area as the authors do (of 10 000 queries)."""
        step = query / self.queries * 10_000
        halvings = sum(step > n for n in (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000))
        side = round((self.share / 2**halvings * height * width) ** 0.5)
        return min(max(1, side), height, width)
