"""Deep image priors as defenses: DIP alone and the tandem of the paper (t-DIPs)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from tandem_defense import checkpoint
from tandem_defense.defenses.base import Defense
from tandem_defense.restoration.engine import fit
from tandem_defense.restoration.reference import Z_CHANNELS, ReadOut, Task, dip1, dip2
from tandem_defense.restoration.stopping import EarlyStopping
from tandem_defense.seeds import derive_seed
from tandem_defense.settings import Count, Fraction, Literal, Positive, Sizes

SMALLEST = 64  # five poolings leave 2 pixels; instance norm needs more than one


@dataclass(frozen=True)
class Restored:
    """Images restored with λ₁ = `first_iterations` (0: no first network) and λ₂ = `iteration`.

    positions : which of the images, N numbers
    images : (N, C, H, W) in [0, 1]
    stopped : (N,) the iteration at which early stopping took the images; 0 where it did not
    """

    positions: list[int]
    first_iterations: int
    iteration: int
    images: Tensor
    stopped: Tensor


class DIP(Defense):
    """Deep image prior: a fresh U-Net per image learns the image from noise, and is stopped.

    What it has learned by then is the natural part of the image; the perturbation comes later
    (t-DIPs section 3.1). The network is t-DIPs' second one (section 4.2).

    iterations : optimizer steps; without read-outs of its own, the result is the last step's
    learning_rate : Adam's
    smoothing : weight of the past in the average over the outputs, which is the result; 0: none
    feature_scale : widths 64 … 1024 of the U-Net are divided by this
    norm : after the convolutions of the U-Net's way down: ``instance`` normalization, ``affine``,
        the same with a learned scale and shift per channel, or ``none`` (docs/choices.md)
    initial_weights : ``torch``: PyTorch's default, uniform ±1/√fan_in; ``he``: uniform ±√(6/fan_in)
    stop_window : with `stop_patience`, stop an image whose outputs were steadiest (smallest
        variance over so many steps) that many steps ago, and take its average from then; null:
        never, as in the paper
    stop_patience : see `stop_window`
    precision : ``float32``; ``tf32`` and ``bf16`` are faster and less exact (docs/restoration.md),
        ``float64`` is for tests
    engine : ``fast``, or ``reference`` for the plain loop over single images
    batch : how many images are optimized together, which changes nothing but the speed; null:
        what the memory holds
    seed : the run's; an image's weights and input depend on it and on the image's id alone

    The attribute `progress`, if set, is called after every few steps with the number of
    image-steps taken; :meth:`steps` tells how many there will be without early stopping.

    Images may have any size: smaller ones than 64 pixels are padded by repeating the edge, grey
    ones are restored as three equal channels.
    """

    def __init__(
        self,
        *,
        iterations: Count = 1000,
        learning_rate: Positive = 1e-3,
        smoothing: Fraction = 0.99,
        feature_scale: Count = 8,
        norm: Literal["instance", "affine", "none"] = "instance",
        initial_weights: Literal["torch", "he"] = "torch",
        stop_window: Count | None = None,
        stop_patience: Count = 100,
        precision: Literal["float32", "tf32", "bf16", "float64"] = "float32",
        engine: Literal["fast", "reference"] = "fast",
        batch: Count | None = None,
        seed: int = 0,
    ):
        super().__init__()
        self.iterations, self.seed = iterations, seed
        self.second = {
            "feature_scale": feature_scale,
            "norm": norm,
            "initial_weights": initial_weights,
        }
        self.fitting = {
            "learning_rate": learning_rate,
            "smoothing": smoothing,
            "precision": precision,
            "engine": engine,
            "batch": batch,
        }
        self.stop = EarlyStopping(stop_window, stop_patience) if stop_window else None
        self.progress: Callable[[int], None] | None = None

    def forward(self, images: Tensor, ids: Sequence[str] | None = None) -> Tensor:
        """Restored images, shape and range as the input's (B, C, H, W).

        Raises ValueError for anything but floating-point images in [0, 1] with 1 or 3 channels.
        """
        whole = torch.empty_like(images)
        for restored in self.trace(images, ids, [self.iterations]):
            whole[restored.positions] = restored.images
        return whole

    def trace(
        self, images: Tensor, ids: Sequence[str] | None, readouts: Sequence[int]
    ) -> Iterator[Restored]:
        """Yield restored images at every read-out, as they come: some positions at a time.

        images : (B, C, H, W) in [0, 1]
        readouts : numbers of iterations, ascending
        """
        check(images)
        names = [str(i) for i in range(len(images))] if ids is None else list(ids)
        for found in self._restore(as_rgb(images), names, readouts):
            restored = found.images[..., : images.shape[2], : images.shape[3]]
            restored = restored if images.shape[1] == 3 else restored.mean(1, keepdim=True)
            yield replace(found, images=restored.to(images))

    def steps(self, images: int, iterations: int) -> int:
        """Optimizer steps that restoring this many images takes, summed over images."""
        return images * iterations

    def _restore(
        self, targets: Tensor, names: list[str], readouts: Sequence[int]
    ) -> Iterator[Restored]:
        tasks = [
            Task(target, derive_seed(self.seed, name, "dip"))
            for target, name in zip(targets, names, strict=True)
        ]
        for found in self._fit(dip2(Z_CHANNELS, **self.second), tasks, readouts, self.stop):
            yield Restored(list(found.positions), 0, found.iteration, found.average, found.stopped)

    def _fit(self, architecture, tasks, readouts, stop=None) -> Iterator[ReadOut]:
        return fit(
            architecture,
            tasks,
            readouts=readouts,
            stop=stop,
            progress=self.progress,
            **self.fitting,
        )


class TandemDIP(DIP):
    """t-DIPs: DIP₁ captures the main information in few steps, DIP₂ restores from its output.

    x̂ = f_θ₂(λ₂, f_θ₁(λ₁, z)) (paper eq. 3). DIP₂'s input is DIP₁'s raw output: after 100 steps a
    moving average still holds 37 % of the first, random one.

    first_iterations : λ₁; several are tried side by side, and the first of them is the result
    first_width : DIP₁'s widths are multiplied by this
    first_norm : after DIP₁'s convolutions, as `norm` is after DIP₂'s; without one DIP₁ is still a
        flat image after 100 steps (docs/choices.md)

    The other settings are DIP's; `iterations` is λ₂, and early stopping is DIP₂'s.
    """

    def __init__(
        self,
        *,
        first_iterations: Sizes = (100,),
        first_width: Positive = 1.0,
        first_norm: Literal["affine", "instance", "none"] = "affine",
        iterations: Count = 1000,
        learning_rate: Positive = 1e-3,
        smoothing: Fraction = 0.99,
        feature_scale: Count = 8,
        norm: Literal["instance", "affine", "none"] = "instance",
        initial_weights: Literal["torch", "he"] = "torch",
        stop_window: Count | None = None,
        stop_patience: Count = 100,
        precision: Literal["float32", "tf32", "bf16", "float64"] = "float32",
        engine: Literal["fast", "reference"] = "fast",
        batch: Count | None = None,
        seed: int = 0,
    ):
        super().__init__(
            iterations=iterations,
            learning_rate=learning_rate,
            smoothing=smoothing,
            feature_scale=feature_scale,
            norm=norm,
            initial_weights=initial_weights,
            stop_window=stop_window,
            stop_patience=stop_patience,
            precision=precision,
            engine=engine,
            batch=batch,
            seed=seed,
        )
        self.first_iterations = tuple(first_iterations)
        self.first = {"width": first_width, "norm": first_norm, "initial_weights": initial_weights}

    def forward(self, images: Tensor, ids: Sequence[str] | None = None) -> Tensor:
        """Restored images for λ₁ = first_iterations[0]; see :meth:`DIP.forward`."""
        whole = torch.empty_like(images)
        for restored in self.trace(images, ids, [self.iterations]):
            if restored.first_iterations == self.first_iterations[0]:
                whole[restored.positions] = restored.images
        return whole

    def steps(self, images: int, iterations: int) -> int:
        """Optimizer steps that restoring this many images takes, of both networks."""
        first = set(self.first_iterations)
        return images * (max(first) + len(first) * iterations)

    def _restore(
        self, targets: Tensor, names: list[str], readouts: Sequence[int]
    ) -> Iterator[Restored]:
        tasks = [
            Task(target, derive_seed(self.seed, name, "dip1"))
            for target, name in zip(targets, names, strict=True)
        ]
        # One run of DIP₁ serves every λ₁.
        lengths = sorted(set(self.first_iterations))
        exact = torch.float64 if self.fitting["precision"] == "float64" else torch.float32
        starts = torch.zeros(len(lengths), *targets.shape, dtype=exact, device=targets.device)
        checkpoint.part("starts", {"images": starts})
        for main in self._fit(dip1(**self.first), tasks, lengths):
            starts[lengths.index(main.iteration), list(main.positions)] = main.output
        points = [(steps, position) for steps in lengths for position in range(len(names))]
        tasks = [
            Task(targets[position], derive_seed(self.seed, names[position], "dip2"), start)
            for (_, position), start in zip(points, starts.flatten(0, 1), strict=True)
        ]
        for found in self._fit(dip2(3, **self.second), tasks, readouts, self.stop):
            # Lanes may hold images of several λ₁.
            for steps in sorted({points[i][0] for i in found.positions}):
                some = [k for k, i in enumerate(found.positions) if points[i][0] == steps]
                yield Restored(
                    [points[found.positions[k]][1] for k in some],
                    steps,
                    found.iteration,
                    found.average[some],
                    found.stopped[some],
                )


def check(images: Tensor) -> None:
    """Raise ValueError for what cannot be restored."""
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not images.is_floating_point():
        raise ValueError(
            f"expected floating-point images (B, 3, H, W) or (B, 1, H, W), got {images.dtype}"
            f" {tuple(images.shape)}"
        )
    if len(images) and not bool(((images >= 0) & (images <= 1)).all()):
        raise ValueError(
            f"expected images in [0, 1], got values from {images.min():.3g} to {images.max():.3g}:"
            " divide 8-bit images by 255, and look for NaN"
        )


def as_rgb(images: Tensor) -> Tensor:
    """Three channels, and at least 64 × 64 pixels (padded right and below, cut off again later)."""
    right, below = (max(0, SMALLEST - n) for n in (images.shape[3], images.shape[2]))
    padded = F.pad(images, (0, right, 0, below), "replicate") if right or below else images
    return padded.expand(-1, 3, -1, -1)
