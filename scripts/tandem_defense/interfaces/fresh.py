"""A random defense that draws anew at every call, for attacks that average over its numbers."""

import copy
from collections.abc import Sequence

from torch import Tensor, nn

from tandem_defense.defenses.base import Defense
from tandem_defense.seeds import derive_seed


class Fresh(nn.Module):
    """A defense with other seeds at every call (EOT, Athalye et al. 2018).

    A defense by itself gives the same images for the same input every time, whatever the batch.
    An average over several calls, as Foolbox's ExpectationOverTransformationWrapper makes it, would
    be one of equal numbers. This one's calls are numbered, and the numbers decide: two attackers
    with the same seed see the same draws.

    Raises ValueError for a defense that draws nothing.
    """

    def __init__(self, defense: Defense, seed: int = 0):
        super().__init__()
        if not hasattr(defense, "seed"):
            raise ValueError(
                f"{type(defense).__name__} has no seed, it draws nothing: use it as it is"
            )
        self.defense, self.seed, self.calls = copy.copy(defense), seed, 0

    def forward(self, images: Tensor, ids: Sequence[str] | None = None) -> Tensor:
        """Defended images, shape and range as the input's; other ones at every call."""
        self.defense.seed = derive_seed(self.seed, str(self.calls))
        self.calls += 1
        return self.defense(images, ids)
