"""Threats that know of no defense: the papers' attacker, and random noise as a control."""

from torch import nn

from tandem_defense.defenses.base import Defense
from tandem_defense.threats.base import Threat


class Oblivious(Threat):
    """The papers' attacker: attacks the bare classifier, and the defense gets what comes of it.

    knows_seeds : see :class:`Threat`; the classifier has none
    """

    AWARE = False

    def target(self, classifier: nn.Module, defense: Defense) -> nn.Module:
        """The bare classifier."""
        return classifier


class Noise(Oblivious):
    """Random noise of the same size as the attacks': the control that must not work."""

    ATTACK = {"kind": "noise"}
    GRADIENTS = False

    samples = 0  # nothing is searched
