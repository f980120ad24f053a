"""Early stopping by windowed moving variance (Wang et al., Early Stopping for Deep Image Prior)."""

from dataclasses import dataclass
from typing import get_type_hints

import torch
from torch import Tensor

from tandem_defense.settings import Count, check


@dataclass(frozen=True)
class EarlyStopping:
    """Stop an image whose outputs have been steadiest for a while.

    The variance of the last `window` outputs falls while the network learns the image and rises
    when it starts on the perturbation. An image stops when the variance has had no new minimum
    for `patience` steps; its result is the average at the minimum.

    Both are numbers of steps; ValueError for what is not ≥ 1.
    """

    window: Count
    patience: Count

    def __post_init__(self):
        check("EarlyStopping", get_type_hints(EarlyStopping, include_extras=True), vars(self))


class Monitor:
    """The variances of several images, each with its own clock.

    stopped : (B,) bool
    best : (B, 3, H, W), the averages at the smallest variance so far
    best_iteration : (B,), when that was; 0 before the first full window
    """

    LANES = ("sum", "squares", "iteration", "lowest", "best_iteration", "best", "stopped")

    def __init__(self, rule: EarlyStopping, shape: torch.Size, device: torch.device):
        self.rule = rule
        lanes = shape[0]
        exact = torch.float32 if device.type == "mps" else torch.float64
        self.recent = torch.zeros(rule.window, *shape, device=device)
        self.sum = torch.zeros(shape, dtype=exact, device=device)
        self.squares = torch.zeros(lanes, dtype=exact, device=device)
        self.iteration = torch.zeros(lanes, dtype=torch.long, device=device)
        self.lowest = torch.full((lanes,), torch.inf, dtype=exact, device=device)
        self.best_iteration = torch.zeros(lanes, dtype=torch.long, device=device)
        self.best = torch.zeros(shape, device=device)
        self.stopped = torch.zeros(lanes, dtype=torch.bool, device=device)
        self.slot = 0

    def reset(self, lane: int) -> None:
        """Begin with another image."""
        self.recent[:, lane] = 0
        for state in (self.sum, self.squares, self.iteration, self.best_iteration, self.stopped):
            state[lane] = 0
        self.lowest[lane] = torch.inf

    def save(self, lane: int) -> dict[str, Tensor]:
        """What is known of one image, on the CPU."""
        # The oldest output first: where the ring begins is another monitor's own matter.
        state = {"recent": self.recent[:, lane].roll(-self.slot, 0)}
        state |= {name: getattr(self, name)[lane] for name in self.LANES}
        return {name: value.to("cpu", copy=True) for name, value in state.items()}

    def resume(self, lane: int, state: dict[str, Tensor]) -> None:
        """Go on with an image as :meth:`save` left it."""
        self.recent[:, lane] = state["recent"].roll(self.slot, 0).to(self.recent)
        for name in self.LANES:
            mine = getattr(self, name)
            mine[lane] = state[name].to(mine)

    def update(self, output: Tensor, average: Tensor) -> None:
        """Take in one step of all images: outputs and averages (B, 3, H, W)."""
        old, new = self.recent[self.slot].to(self.sum.dtype), output.to(self.sum.dtype)
        self.sum += new - old
        self.squares += (new.square() - old.square()).sum((1, 2, 3))
        self.recent[self.slot] = output
        self.slot = (self.slot + 1) % self.rule.window
        self.iteration += 1
        n = self.rule.window
        variance = self.squares / n - (self.sum / n).square().sum((1, 2, 3))
        better = (self.iteration >= n) & (variance < self.lowest) & ~self.stopped
        self.lowest = torch.where(better, variance, self.lowest)
        self.best_iteration = torch.where(better, self.iteration, self.best_iteration)
        self.best = torch.where(better[:, None, None, None], average.to(self.best), self.best)
        late = self.iteration - self.best_iteration >= self.rule.patience
        self.stopped |= late & (self.best_iteration > 0)
