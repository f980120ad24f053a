"""A random defense that draws anew at every call, for attacks that average over its numbers."""

import copy

from torch import nn

from tandem_defense.defenses.base import Defense
from tandem_defense.threats.base import Drawing, Through, random


class Fresh(Drawing):
    """A defense with other seeds at every call (EOT, Athalye et al. 2018).

    A defense by itself gives the same images for the same input every time, whatever the batch.
    An average over several calls, as Foolbox's ExpectationOverTransformationWrapper makes it, would
    be one of equal numbers. This one draws as the attacker of a threat does: its calls are
    numbered, and the numbers decide, so that two attackers with the same seed see the same draws.

    Raises ValueError for a defense that draws nothing.
    """

    def __init__(self, defense: Defense, seed: int = 0):
        if not random(defense):
            raise ValueError(
                f"{type(defense).__name__} has no seed, it draws nothing: use it as it is"
            )
        twin = copy.copy(defense)
        super().__init__(Through(nn.Identity(), twin), twin, seed, "attacker", 1, [])
