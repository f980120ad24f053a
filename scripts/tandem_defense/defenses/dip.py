"""Deep image priors as defenses: DIP alone and the tandem of the paper (t-DIPs)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tandem_defense.defenses.base import Defense
from tandem_defense.restoration.engine import ReadOut, fit
from tandem_defense.restoration.networks import Z_CHANNELS, FirstPrior, UNet
from tandem_defense.seeds import derive_seed
from tandem_defense.settings import Count, Fraction, Literal, Positive, Sizes

SMALLEST = 64  # five poolings leave 2 pixels; instance norm needs more than one


@dataclass(frozen=True)
class Restored:
    """Images restored with λ₁ = `first_iterations` (0: no first network) and λ₂ = `iteration`."""

    first_iterations: int
    iteration: int
    images: Tensor


class DIP(Defense):
    """Deep image prior: a fresh U-Net per image learns the image from noise, and is stopped.

    What it has learned by then is the natural part of the image; the perturbation comes later
    (t-DIPs section 3.1). The network is t-DIPs' second one (section 4.2).

    iterations : optimizer steps; without read-outs of its own, the result is the last step's
    learning_rate : Adam's
    smoothing : weight of the past in the average over the outputs, which is the result; 0: none
    feature_scale : widths 64 … 1024 of the U-Net are divided by this
    norm : ``instance`` or ``none`` (docs/choices.md)
    batch : how many images are optimized together, which changes nothing but the speed
    dtype : ``float32``, or ``float64`` for tests
    seed : the run's; an image's weights and input depend on it and on the image's id alone

    The attribute `progress`, if set, is called after every step with the number of images that it
    advanced; :meth:`steps` tells how many there will be.

    Images may have any size: smaller ones than 64 pixels are padded by repeating the edge, grey
    ones are restored as three equal channels.
    """

    def __init__(
        self,
        *,
        iterations: Count = 1000,
        learning_rate: Positive = 1e-3,
        smoothing: Fraction = 0.99,
        feature_scale: Count = 4,
        norm: Literal["instance", "none"] = "instance",
        batch: Count = 8,
        dtype: Literal["float32", "float64"] = "float32",
        seed: int = 0,
    ):
        super().__init__()
        self.iterations, self.learning_rate, self.smoothing = iterations, learning_rate, smoothing
        self.feature_scale, self.norm = feature_scale, norm
        self.batch, self.dtype, self.seed = batch, getattr(torch, dtype), seed
        self.progress: Callable[[int], None] | None = None

    def forward(self, images: Tensor, ids: Sequence[str] | None = None) -> Tensor:
        """Restored images, shape and range as the input's (B, C, H, W).

        Raises ValueError for anything but floating-point images in [0, 1] with 1 or 3 channels.
        """
        whole = torch.empty_like(images)
        for positions, restored in self.trace(images, ids, [self.iterations]):
            whole[positions] = restored.images
        return whole

    def trace(
        self, images: Tensor, ids: Sequence[str] | None, readouts: Sequence[int]
    ) -> Iterator[tuple[slice, Restored]]:
        """Yield (positions, restored images of these positions) at every read-out, batch by batch.

        images : (B, C, H, W) in [0, 1]
        readouts : numbers of iterations, ascending
        """
        check(images)
        names = [str(i) for i in range(len(images))] if ids is None else list(ids)
        for start in range(0, len(images), self.batch):
            positions = slice(start, min(start + self.batch, len(images)))
            x = images[positions]
            targets = as_rgb(x).to(self.dtype)
            # Autograd is needed to optimize, even under a caller's no_grad.
            with torch.enable_grad():
                for restored in self._restore(targets, names[positions], readouts):
                    shape = restored.images[..., : x.shape[2], : x.shape[3]]
                    yield (
                        positions,
                        Restored(
                            restored.first_iterations,
                            restored.iteration,
                            (shape if x.shape[1] == 3 else shape.mean(1, keepdim=True)).to(x.dtype),
                        ),
                    )

    def steps(self, images: int, iterations: int) -> int:
        """Optimizer steps that restoring this many images takes, summed over images."""
        return images * iterations

    def _restore(
        self, targets: Tensor, names: list[str], readouts: Sequence[int]
    ) -> Iterator[Restored]:
        network = UNet(len(targets), Z_CHANNELS, self.feature_scale, self.norm)
        z = self._start(network, targets, names, "dip")
        for found in self._fit(network, z, targets, readouts):
            yield Restored(0, found.iteration, found.average)

    def _start(self, network, targets: Tensor, names: list[str], part: str) -> Tensor:
        """Seeded weights, and z ~ U(0, 1) of the images' size."""
        z = torch.empty(len(targets), Z_CHANNELS, *targets.shape[2:])
        network.initialize([derive_seed(self.seed, name, part) for name in names], z)
        network.to(targets)
        return z.to(targets)

    def _fit(self, network, inputs, targets, readouts) -> Iterator[ReadOut]:
        return fit(
            network,
            inputs,
            targets,
            readouts=readouts,
            learning_rate=self.learning_rate,
            smoothing=self.smoothing,
            progress=self.progress,
        )


class TandemDIP(DIP):
    """t-DIPs: DIP₁ captures the main information in few steps, DIP₂ restores from its output.

    x̂ = f_θ₂(λ₂, f_θ₁(λ₁, z)) (paper eq. 3). DIP₂'s input is DIP₁'s raw output: after 100 steps a
    moving average still holds 37 % of the first, random one.

    first_iterations : λ₁; several are tried side by side, and the first of them is the result
    first_width : DIP₁'s widths are multiplied by this

    The other settings are DIP's; `iterations` is λ₂.
    """

    def __init__(
        self,
        *,
        first_iterations: Sizes = (100,),
        first_width: Positive = 1.0,
        iterations: Count = 1000,
        learning_rate: Positive = 1e-3,
        smoothing: Fraction = 0.99,
        feature_scale: Count = 4,
        norm: Literal["instance", "none"] = "instance",
        batch: Count = 8,
        dtype: Literal["float32", "float64"] = "float32",
        seed: int = 0,
    ):
        super().__init__(
            iterations=iterations,
            learning_rate=learning_rate,
            smoothing=smoothing,
            feature_scale=feature_scale,
            norm=norm,
            batch=batch,
            dtype=dtype,
            seed=seed,
        )
        self.first_iterations, self.first_width = tuple(first_iterations), first_width

    def forward(self, images: Tensor, ids: Sequence[str] | None = None) -> Tensor:
        """Restored images for λ₁ = first_iterations[0]; see :meth:`DIP.forward`."""
        whole = torch.empty_like(images)
        for positions, restored in self.trace(images, ids, [self.iterations]):
            if restored.first_iterations == self.first_iterations[0]:
                whole[positions] = restored.images
        return whole

    def steps(self, images: int, iterations: int) -> int:
        """Optimizer steps that restoring this many images takes, of both networks."""
        first = set(self.first_iterations)
        return images * (max(first) + len(first) * iterations)

    def _restore(
        self, targets: Tensor, names: list[str], readouts: Sequence[int]
    ) -> Iterator[Restored]:
        first = FirstPrior(len(targets), self.first_width)
        z = self._start(first, targets, names, "dip1")
        # One run of DIP₁ serves every λ₁.
        outputs = self._fit(first, z, targets, sorted(set(self.first_iterations)))
        for main in outputs:
            second = UNet(len(targets), 3, self.feature_scale, self.norm)
            second.initialize([derive_seed(self.seed, name, "dip2") for name in names])
            second.to(targets)
            for found in self._fit(second, main.output, targets, readouts):
                yield Restored(main.iteration, found.iteration, found.average)


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
