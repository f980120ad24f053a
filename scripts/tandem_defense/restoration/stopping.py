"""Early stopping: by the variance of the last outputs, or by pixels that are held out of the fit.

The first is the windowed moving variance of Wang et al., Early Stopping for Deep Image Prior
(arXiv 2112.06074). The second takes the image as its own reference, as Huang et al., A Principled
Self-Referenced Early Stopping Approach for Deep Image Prior (arXiv 2605.25299), and Li et al.,
Self-Validation (BMVC 2021), do in other ways: some pixels validate what is learned of the others.
"""

from dataclasses import dataclass
from typing import get_type_hints

import torch
from torch import Tensor

from tandem_defense.seeds import derive_seed
from tandem_defense.settings import Count, HeldShare, check


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

    @property
    def images(self) -> int:
        """How many images a monitor keeps."""
        return self.window + 6

    def weight(self, target: Tensor, seed: int) -> Tensor | None:
        """All pixels are fitted alike."""

    def monitor(self, shape: torch.Size, device: torch.device) -> "VarianceMonitor":
        """For images (B, 3, H, W)."""
        return VarianceMonitor(self, shape, device)


@dataclass(frozen=True)
class HeldOut:
    """Stop an image whose error on pixels that it is not fitted to has been smallest for a while.

    `share` of the pixels, in [0.001, 0.5], drawn for each image, count nothing in the fit. An image
    stops when the mean squared error there, of the moving average, has had no new minimum for
    `patience` steps; its result is the average at the minimum.

    ValueError for a share outside that range, and for a patience that is not ≥ 1.
    """

    share: HeldShare
    patience: Count

    def __post_init__(self):
        check("HeldOut", get_type_hints(HeldOut, include_extras=True), vars(self))

    images = 5  # that a monitor keeps

    def weight(self, target: Tensor, seed: int) -> Tensor:
        """What each pixel counts in the fit of `target` (3, H, W), (1, H, W): mean 1, some are 0.

        Drawn on the CPU from the image's `seed`.
        """
        generator = torch.Generator().manual_seed(derive_seed(seed, "held out"))
        pixels = target[0].numel()
        weight = torch.ones(pixels, dtype=torch.float64, device="cpu")
        order = torch.randperm(pixels, generator=generator, device="cpu")
        weight[order[: max(1, int(self.share * pixels))]] = 0
        return (weight / weight.mean()).reshape(1, *target.shape[1:])

    def monitor(self, shape: torch.Size, device: torch.device) -> "HeldOutMonitor":
        """For images (B, 3, H, W)."""
        return HeldOutMonitor(self, shape, device)


class Monitor:
    """Where a value of each of several images was smallest; each image has its own clock.

    stopped : (B,) bool
    best : (B, 3, H, W), the averages at the smallest value so far
    best_iteration : (B,), when that was; 0 before the first one
    """

    LANES = ("iteration", "lowest", "best_iteration", "best", "stopped")

    def __init__(self, rule: EarlyStopping | HeldOut, shape: torch.Size, device: torch.device):
        self.rule = rule
        lanes = shape[0]
        self.exact = torch.float32 if device.type == "mps" else torch.float64
        self.iteration = torch.zeros(lanes, dtype=torch.long, device=device)
        self.lowest = torch.full((lanes,), torch.inf, dtype=self.exact, device=device)
        self.best_iteration = torch.zeros(lanes, dtype=torch.long, device=device)
        self.best = torch.zeros(shape, dtype=torch.float32, device=device)
        self.stopped = torch.zeros(lanes, dtype=torch.bool, device=device)

    def begin(self, lane: int, target: Tensor, weight: Tensor | None) -> None:
        """Begin with another image, `target`, of which the rule's `weight` is told to the fit."""
        for state in (self.iteration, self.best_iteration, self.stopped):
            state[lane] = 0
        self.lowest[lane] = torch.inf

    def save(self, lane: int) -> dict[str, Tensor]:
        """What is known of one image, on the CPU."""
        return {name: getattr(self, name)[lane].to("cpu", copy=True) for name in self.LANES}

    def resume(self, lane: int, state: dict[str, Tensor]) -> None:
        """Go on, after :meth:`begin`, with an image as :meth:`save` left it."""
        for name in self.LANES:
            mine = getattr(self, name)
            mine[lane] = state[name].to(mine)

    def update(self, output: Tensor, average: Tensor) -> None:
        """Take in one step of all images: outputs and averages (B, 3, H, W)."""
        self.iteration += 1
        value, counts = self.value(output, average)
        better = counts & (value < self.lowest) & ~self.stopped
        self.lowest = torch.where(better, value, self.lowest)
        self.best_iteration = torch.where(better, self.iteration, self.best_iteration)
        self.best = torch.where(better[:, None, None, None], average.to(self.best), self.best)
        late = self.iteration - self.best_iteration >= self.rule.patience
        self.stopped |= late & (self.best_iteration > 0)

    def value(self, output: Tensor, average: Tensor) -> tuple[Tensor, Tensor]:
        """The values (B,) of this step, and which of them count (B,) bool."""
        raise NotImplementedError


class VarianceMonitor(Monitor):
    """The variances of the last outputs."""

    LANES = (*Monitor.LANES, "sum", "squares")

    def __init__(self, rule: EarlyStopping, shape: torch.Size, device: torch.device):
        super().__init__(rule, shape, device)
        self.recent = torch.zeros(rule.window, *shape, dtype=torch.float32, device=device)
        self.sum = torch.zeros(shape, dtype=self.exact, device=device)
        self.squares = torch.zeros(shape[0], dtype=self.exact, device=device)
        self.slot = 0

    def begin(self, lane: int, target: Tensor, weight: Tensor | None) -> None:
        """See :class:`Monitor`."""
        super().begin(lane, target, weight)
        self.recent[:, lane] = 0
        self.sum[lane], self.squares[lane] = 0, 0

    def save(self, lane: int) -> dict[str, Tensor]:
        """See :class:`Monitor`."""
        # The oldest output first: where the ring begins is another monitor's own matter.
        recent = self.recent[:, lane].roll(-self.slot, 0)
        return super().save(lane) | {"recent": recent.to("cpu", copy=True)}

    def resume(self, lane: int, state: dict[str, Tensor]) -> None:
        """See :class:`Monitor`."""
        super().resume(lane, state)
        self.recent[:, lane] = state["recent"].roll(self.slot, 0).to(self.recent)

    def value(self, output: Tensor, average: Tensor) -> tuple[Tensor, Tensor]:
        """The variance, once the window is full."""
        old, new = self.recent[self.slot].to(self.sum.dtype), output.to(self.sum.dtype)
        self.sum += new - old
        self.squares += (new.square() - old.square()).sum((1, 2, 3))
        self.recent[self.slot] = output
        n = self.rule.window
        self.slot = (self.slot + 1) % n
        variance = self.squares / n - (self.sum / n).square().sum((1, 2, 3))
        return variance, self.iteration >= n


class HeldOutMonitor(Monitor):
    """The averages' errors on the pixels that the fit does not see."""

    def __init__(self, rule: HeldOut, shape: torch.Size, device: torch.device):
        super().__init__(rule, shape, device)
        self.target = torch.zeros(shape, dtype=self.exact, device=device)
        self.held = torch.zeros(shape[0], 1, *shape[2:], dtype=self.exact, device=device)

    def begin(self, lane: int, target: Tensor, weight: Tensor | None) -> None:
        """See :class:`Monitor`."""
        super().begin(lane, target, weight)
        held = weight == 0
        self.target[lane], self.held[lane] = target, held / (3 * held.sum())

    def value(self, output: Tensor, average: Tensor) -> tuple[Tensor, Tensor]:
        """The mean squared error there, which counts from the first step on."""
        error = (average.to(self.exact) - self.target).square() * self.held
        return error.sum((1, 2, 3)), self.iteration > 0
