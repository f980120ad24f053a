"""Deep image priors as defenses: DIP alone and the tandem of the paper (t-DIPs)."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from tandem_defense.defenses.base import Defense, names_of, uncompiled
from tandem_defense.pipeline import checkpoint
from tandem_defense.restoration import coarse
from tandem_defense.restoration.engine import fit
from tandem_defense.restoration.reference import (
    Z_CHANNELS,
    Architecture,
    FitSettings,
    ReadOut,
    Task,
    dip1,
    dip2,
)
from tandem_defense.restoration.stopping import EarlyStopping, HeldOut
from tandem_defense.seeds import derive_seed
from tandem_defense.settings import Count, HeldShare, Positive, Size, Smoothing, Steps

log = logging.getLogger(__name__)

SMALLEST = 64  # five poolings leave 2 pixels; instance norm needs more than one
# A DIP₁ whose output has less than this share of its target's contrast has learned no image yet.
# Normalized ones have 0.28 to 0.80 on the demo's patches with noise of 8/255 (λ₁ = 20). Those
# without a norm have 0.04 at most there after 5 steps, and on two photographs of 224 pixels, with
# the paper's widths, 0.04 and 0.10 after 20.
FLAT = 0.1
# Targets with less contrast than this are flat themselves; perturbations alone have up to 0.03.
PLAIN = 0.05


@dataclass(frozen=True)
class Restored:
    """Images restored with λ₁ = `first_iterations` (0: no first network) and λ₂ = `iteration`.

    positions : which of the images, N numbers
    images : (N, C, H, W) in [0, 1]
    stopped : (N,) the iteration at which early stopping took the images, 0 where it did not; None
        where there is no early stopping
    flat : (N,) bool, whether DIP₁ had learned no image when DIP₂ started (see :func:`is_flat`);
        None without a first network
    start : DIP₁'s output, shape and range as `images`; None without a first network
    """

    positions: list[int]
    first_iterations: int
    iteration: int
    images: Tensor
    stopped: Tensor | None = None
    flat: Tensor | None = None
    start: Tensor | None = None


class DIP(Defense):
    """Deep image prior: a fresh U-Net per image learns the image from noise, and is stopped.

    What it has learned by then is the natural part of the image; the perturbation comes later
    (t-DIPs section 3.1). The network is t-DIPs' second one (section 4.2).

    iterations : optimizer steps; without read-outs of its own, the result is the last step's
    learning_rate : Adam's
    smoothing : weight of the past in the average over the outputs, which is the result; below 1,
        0: none
    feature_scale : widths 64 … 1024 of the U-Net are divided by this
    norm : after the convolutions of the U-Net's way down: ``instance`` normalization, ``affine``,
        the same with a learned scale and shift per channel, or ``none`` (docs/choices.md)
    initial_weights : ``torch``: PyTorch's default, uniform ±1/√fan_in; ``he``: uniform ±√(6/fan_in)
    stop_window : with `stop_patience`, stop an image whose outputs were steadiest (smallest
        variance over so many steps) that many steps ago, and take its average from then; null:
        never, as in the paper
    stop_held_out : with `stop_patience`, a share of the pixels, from 0.001 to 0.5, that the fit
        does not see; stop an image whose average had its smallest error there that many steps ago,
        and take that average; null: never
    stop_patience : see `stop_window` and `stop_held_out`
    precision : what is computed in: ``float32``; ``tf32`` and ``bf16`` are faster and less exact
        (docs/restoration.md), ``float64`` is for tests. Images of another type are converted, and
        the result has theirs: float64 images come back as float64 with float32's accuracy
    engine : ``fast``; ``reference`` for the plain loop over single images; ``triton`` for kernels
        of our own on a CUDA GPU, whose speed is not measured yet (docs/restoration.md)
    batch : how many images are optimized together, which changes nothing but the speed; null:
        what the memory holds
    seed : the run's; an image's weights and input depend on it and on the image's id alone, or,
        without ids, on the image's content

    The attribute `progress`, if set, is called after every few steps with the number of
    image-steps taken; :meth:`steps` tells how many there will be without early stopping.

    Images may have any size: smaller ones than 64 pixels are padded by repeating the edge, gray
    ones are restored as three equal channels. A restoration has no exact `gradient` (see
    :class:`Defense`). Raises ValueError for settings of other values.
    """

    RESTORATION = True  # runs in jobs of its own, which record predictions at read-outs

    iterations: Count = 1000
    learning_rate: Positive = 1e-3
    smoothing: Smoothing = 0.99
    feature_scale: Count = 8
    norm: Literal["instance", "affine", "none"] = "instance"
    initial_weights: Literal["torch", "he"] = "torch"
    stop_window: Count | None = None
    stop_held_out: HeldShare | None = None
    stop_patience: Count = 100
    precision: Literal["float32", "tf32", "bf16", "float64"] = "float32"
    engine: Literal["fast", "reference", "triton"] = "fast"
    batch: Count | None = None
    seed: int = 0

    CONDITIONS = {
        "stop_window is None or stop_held_out is None": "give one rule to stop by, or none",
        "stop_held_out is None or engine != 'triton'": "that engine fits all pixels, take fast",
        "precision != 'bf16' or engine == 'fast'": "only that engine has bf16",
    }
    ONLY_IF = {
        "stop_patience": "stop_window is not None or stop_held_out is not None",
        "batch": "engine != 'reference'",
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        self.progress: Callable[[int], None] | None = None

    def priors(self) -> tuple[Architecture | None, Architecture]:
        """The networks in the order in which they are fitted: DIP₁, None without, and the U-Net."""
        return None, dip2(Z_CHANNELS, self.feature_scale, self.norm, self.initial_weights)

    def fit_settings(self, readouts: Sequence[int]) -> FitSettings:
        """How the U-Net is fitted; ValueError for read-outs that are not ascending or not ≥ 1."""
        stop = None
        if self.stop_window:
            stop = EarlyStopping(self.stop_window, self.stop_patience)
        elif self.stop_held_out:
            stop = HeldOut(self.stop_held_out, self.stop_patience)
        return FitSettings(
            readouts=tuple(readouts),
            learning_rate=self.learning_rate,
            smoothing=self.smoothing,
            stop=stop,
            precision=self.precision,
        )

    @uncompiled
    def forward(self, images: Tensor, ids: Sequence[str] | None = None) -> Tensor:
        """Restored images, shape and range as the input's (B, C, H, W); t-DIPs' with its first λ₁.

        Raises ValueError for anything but floating-point images in [0, 1] with 1 or 3 channels.
        """
        check(images)
        first = getattr(self, "first_iterations", (0,))[0]
        names, whole = names_of(images, ids), torch.zeros_like(images)
        with checkpoint.piece(images, names, self.seed, first, self.iterations):
            checkpoint.part("restored", {"images": whole}).resume()
            for restored in self.trace(images, names, [self.iterations]):
                if restored.first_iterations == first:
                    whole[restored.positions] = restored.images
        return whole

    def trace(
        self, images: Tensor, ids: Sequence[str] | None, readouts: Sequence[int]
    ) -> Iterator[Restored]:
        """Yield restored images at every read-out, as they come: some positions at a time.

        images : (B, C, H, W) in [0, 1]
        readouts : numbers of iterations ≥ 1, ascending

        Raises ValueError for other read-outs, and for images as :meth:`forward` does.
        """
        check(images)
        images = images.detach()
        settings = self.fit_settings(readouts)
        names = names_of(images, ids)
        with checkpoint.piece(images, names, self.seed, list(readouts)):
            for restored in self._restore(as_rgb(images), names, settings):
                start = None if restored.start is None else as_input(restored.start, images)
                yield replace(restored, images=as_input(restored.images, images), start=start)

    def _restore(
        self, targets: Tensor, names: list[str], settings: FitSettings
    ) -> Iterator[Restored]:
        _, unet = self.priors()
        for read in self._fit(unet, self._tasks(targets, names, "dip"), settings):
            yield Restored(list(read.positions), 0, read.iteration, read.average, read.stopped)

    def _tasks(self, targets: Tensor, names: list[str], network: str) -> list[Task]:
        """Tasks that start from noise, each image's from its own."""
        return [
            Task(target, derive_seed(self.seed, name, network))
            for target, name in zip(targets, names, strict=True)
        ]

    def _fit(
        self, prior: Architecture, tasks: list[Task], settings: FitSettings
    ) -> Iterator[ReadOut]:
        return fit(
            prior, tasks, settings, engine=self.engine, batch=self.batch, progress=self.progress
        )


class TandemDIP(DIP):
    """t-DIPs: DIP₁ captures the main information in few steps, DIP₂ restores from its output.

    x̂ = f_θ₂(λ₂, f_θ₁(λ₁, z)) (paper eq. 3). DIP₂'s input is DIP₁'s raw output: after 100 steps a
    moving average still holds 37 % of the first, random one.

    first_iterations : λ₁; several are tried side by side, and the first of them is the result
    first_width : DIP₁'s widths are multiplied by this
    first_norm : after DIP₁'s convolutions, as `norm` is after DIP₂'s; without one DIP₁ is still a
        flat image after 100 steps (docs/choices.md)
    coarse : so many first steps of DIP₂ fit the image at half its size, a quarter
        of the pixels; the weights carry over. Images need at least 128 pixels on each side; 0: none

    The other settings are DIP's; `iterations` is λ₂, and early stopping is DIP₂'s.
    """

    first_iterations: Steps = (100,)
    first_width: Positive = 1.0
    first_norm: Literal["affine", "instance", "none"] = "affine"
    coarse: Size = 0

    CONDITIONS = {  # DIP's three, and those of `coarse`
        "stop_window is None or stop_held_out is None": "give one rule to stop by, or none",
        "stop_held_out is None or engine != 'triton'": "that engine fits all pixels, take fast",
        "precision != 'bf16' or engine == 'fast'": "only that engine has bf16",
        "coarse == 0 or stop_window is None": "early stopping compares outputs of one size",
        "coarse == 0 or stop_held_out is None": "early stopping compares outputs of one size",
        "coarse == 0 or engine != 'triton'": "that engine has one size of image, take fast",
    }

    def priors(self) -> tuple[Architecture, Architecture]:
        """DIP₁, which is fed with noise, and DIP₂, which is fed with DIP₁'s output."""
        _, unet = super().priors()
        main = dip1(self.first_width, self.first_norm, self.initial_weights)
        return main, replace(unet, inputs=3)

    def steps(self, images: int, iterations: int) -> int:
        """Optimizer steps that restoring this many images takes, of both networks."""
        first = set(self.first_iterations)
        return images * (max(first) + len(first) * iterations)

    def _restore(
        self, targets: Tensor, names: list[str], settings: FitSettings
    ) -> Iterator[Restored]:
        coarse.check(self.coarse, targets.shape[2:])  # before DIP₁ has fitted all images
        lengths = tuple(sorted(set(self.first_iterations)))
        starts = self._starts(targets, names, replace(settings, readouts=lengths, stop=None))
        flat = is_flat(starts, targets)
        if flat.any():
            log.warning("%s", _advice(flat, lengths))
        # DIP₂'s tasks: all images for the first λ₁, then all for the next.
        tasks = [
            Task(target, derive_seed(self.seed, name, "dip2"), start)
            for first in starts
            for target, name, start in zip(targets, names, first, strict=True)
        ]
        _, unet = self.priors()
        for read in self._fit(unet, tasks, replace(settings, coarse=self.coarse)):
            points = [divmod(i, len(names)) for i in read.positions]
            # Lanes may hold images of several λ₁.
            for number in sorted({number for number, _ in points}):
                some = [k for k, point in enumerate(points) if point[0] == number]
                positions = [points[k][1] for k in some]
                yield Restored(
                    positions,
                    lengths[number],
                    read.iteration,
                    read.average[some],
                    read.stopped[some],
                    flat[number, positions],
                    starts[number, positions],
                )

    def _starts(self, targets: Tensor, names: list[str], settings: FitSettings) -> Tensor:
        """DIP₁'s outputs at its read-outs λ₁, (λ₁, N, 3, H, W); one run serves them all."""
        lengths = settings.readouts
        starts = targets.new_zeros(len(lengths), *targets.shape, dtype=settings.dtype)
        checkpoint.part("starts", {"images": starts}).resume()
        main, _ = self.priors()
        for read in self._fit(main, self._tasks(targets, names, "dip1"), settings):
            starts[lengths.index(read.iteration), list(read.positions)] = read.output
        return starts


def is_flat(outputs: Tensor, targets: Tensor) -> Tensor:
    """Which outputs are nearly constant although their targets are not, (..., N) bool.

    outputs : (..., N, 3, H, W) in [0, 1]; targets : (N, 3, H, W) in [0, 1]

    Contrast is the standard deviation over the pixels of a channel, root mean square over
    channels: an image of one color has none. Targets with a contrast below PLAIN do not count.
    """

    def contrast(images: Tensor) -> Tensor:
        return images.float().var((-2, -1)).mean(-1).sqrt()

    expected = contrast(targets)
    return ((contrast(outputs) < FLAT * expected) & (expected >= PLAIN)).cpu()


def _advice(flat: Tensor, lengths: tuple[int, ...]) -> str:
    """What to do about flat outputs (λ₁, N) of DIP₁."""
    counts = ", ".join(
        f"for {int(row.sum())} of {len(row)} images after λ₁ = {steps} steps"
        for steps, row in zip(lengths, flat, strict=True)
        if row.any()
    )
    return (
        f"DIP₁'s output is nearly constant {counts}: DIP₂ starts from an image without content."
        " Take more first_iterations, or first_norm: affine"
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


def as_input(restored: Tensor, images: Tensor) -> Tensor:
    """What :func:`as_rgb` has made of images and a network restored, as the images were."""
    whole = restored[..., : images.shape[2], : images.shape[3]]
    whole = whole if images.shape[1] == 3 else whole.mean(1, keepdim=True)
    return whole.to(images)
