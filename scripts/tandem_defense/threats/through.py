"""Threats that attack the defended classifier itself: by its gradient, around it, without one."""

import math

import torch
from torch import Tensor, nn

from tandem_defense.defenses.base import Defense
from tandem_defense.settings import Count
from tandem_defense.threats.base import Threat, Through


class Exact(Threat):
    """Gradients through the defense, where it has some.

    Rounding counts as the identity backward where the defense can say so (ComDefend's code, JPEG's
    coefficients, see :meth:`Defense.through`). A defense without a gradient leaves the images as
    they are, and the sign ``unavailable_gradients``.

    samples : fresh seeds of a random defense, averaged at every step (EOT, Athalye et al. 2018)
    """

    samples: Count = 1

    def target(self, classifier: nn.Module, defense: Defense) -> nn.Module:
        """The classifier behind the defense."""
        defense.gradient = None
        return Through(classifier, defense.through)


class BPDA(Threat):
    """Forward through the real defense, backward as the identity (Athalye et al. 2018, sec. 4.1).

    samples : fresh seeds of a random defense, averaged at every step (EOT)
    iterations : optimizer steps of the restoration that the attacker can afford; null: all. The
        first network of t-DIPs is shortened alike
    """

    samples: Count = 1
    iterations: Count | None = None

    def target(self, classifier: nn.Module, defense: Defense) -> nn.Module:
        """The classifier behind the defense, which is the identity backward."""
        defense.gradient = "straight_through"
        return Through(classifier, self.affordable(defense))

    def affordable(self, defense: Defense) -> Defense:
        """The defense with as many steps as the attacker has; others as they are."""
        if self.iterations is not None and hasattr(defense, "iterations"):
            share = min(1.0, self.iterations / defense.iterations)
            defense.iterations = min(self.iterations, defense.iterations)
            if hasattr(defense, "first_iterations"):
                first = defense.first_iterations[0]
                defense.first_iterations = (max(1, round(share * first)),)
        return defense


class LowFrequency(BPDA):
    """BPDA with a perturbation of the lowest frequencies alone, which a deep image prior passes on.

    Its spectral bias restores low frequencies first (Rahaman et al. 2019; t-DIPs section 3.1). The
    perturbation δ of the attack becomes the lowest k × k coefficients of its discrete cosine
    transform, made smaller where it leaves ±ε.

    frequencies : k
    """

    frequencies: Count = 8

    def project(self, images: Tensor, start: Tensor, epsilon: float) -> Tensor:
        """Images whose difference from `start` has low frequencies only, within ±epsilon."""
        rows, columns = (cosines(n, self.frequencies).to(images) for n in images.shape[2:])
        delta = rows.T @ (rows @ (images - start) @ columns.T) @ columns
        top = delta.flatten(1).abs().amax(1).clamp(min=epsilon)[:, None, None, None]
        return (start + delta * (epsilon / top)).clamp(0, 1)


class Query(Threat):
    """Square (Andriushchenko et al. 2020) through the whole defended classifier: no gradients.

    samples : fresh seeds of a random defense, averaged at every query
    iterations : see :class:`BPDA`
    """

    samples: Count = 1
    iterations: Count | None = None

    ATTACK = {"kind": "square"}
    GRADIENTS = False

    def target(self, classifier: nn.Module, defense: Defense) -> nn.Module:
        """The classifier behind the defense, detached."""
        defense.gradient = "none"
        return Through(classifier, BPDA.affordable(self, defense))


def cosines(n: int, k: int) -> Tensor:
    """The first k rows of the orthonormal DCT-II of n points, (min(k, n), n)."""
    order = torch.arange(min(k, n), dtype=torch.float64)[:, None]
    place = torch.arange(n, dtype=torch.float64) + 0.5
    rows = torch.cos(math.pi / n * order * place) * math.sqrt(2 / n)
    rows[0] /= math.sqrt(2)
    return rows
