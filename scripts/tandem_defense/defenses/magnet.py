"""MagNet: autoencoders that pull an image back to the training images, and refuse far ones.

Meng and Chen, "MagNet: a Two-Pronged Defense against Adversarial Examples", 2017, with the
MNIST settings of the authors' released source.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from tandem_defense.defenses.base import Defense
from tandem_defense.device import DRAWN
from tandem_defense.settings import Count, Fraction, Positive, checked
from tandem_defense.training import (
    check_images,
    check_training,
    generator,
    initialize,
    minimize,
    seeded,
)


class DenoisingAutoencoder(nn.Module):
    """3×3 convolutions with a sigmoid after each, images (B, C, H, W) in [0, 1] to the same.

    With ``pooling`` (AE_I): convolution, 2×2 average pooling, convolution | convolution,
    upsampling, convolution, convolution to C channels. Without (AE_II): convolution |
    convolution, convolution to C channels.
    """

    def __init__(self, channels: int, filters: int, pooling: bool):
        super().__init__()
        self.pooling = pooling
        inner = 3 if pooling else 1
        widths = [channels, *[filters] * (inner + 1), channels]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(i, o, 3, padding=1) for i, o in zip(widths[:-1], widths[1:], strict=True)
        )

    def activations(self, images: Tensor) -> list[Tensor]:
        """The output of every convolution after its sigmoid; the last is the reconstruction."""
        x, outputs = images, []
        for position, convolution in enumerate(self.convolutions):
            x = torch.sigmoid(convolution(x))
            outputs.append(x)
            if self.pooling and position == 0:
                x = functional.avg_pool2d(x, 2, ceil_mode=True)
            if self.pooling and position == 2:
                x = functional.interpolate(x, scale_factor=2, mode="nearest")
                x = x[..., : images.shape[2], : images.shape[3]]  # odd sides were rounded up
        return outputs

    def forward(self, images: Tensor) -> Tensor:
        """The reconstruction."""
        return self.activations(images)[-1]


class MagNet(Defense):
    """Reformer AE_I; detectors are the reconstruction errors of AE_I (p = 2) and AE_II (p = 1).

    The thresholds belong to the state; before :meth:`fit` they are infinite.
    """

    channels: Count = 1
    filters: Count = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        with seeded(0):
            self.pooled = DenoisingAutoencoder(self.channels, self.filters, pooling=True)  # AE_I
            self.flat = DenoisingAutoencoder(self.channels, self.filters, pooling=False)  # AE_II
        self.register_buffer("thresholds", torch.full((2,), torch.inf))
        self.to(memory_format=torch.channels_last)  # halves the training time on a CPU
        self.eval()

    def forward(self, images: Tensor, ids: Sequence[str] | None = None) -> Tensor:
        """Images as AE_I reconstructs them, shape and range as the input's; differentiable."""
        check_images(images, self.channels, weights=self)
        return self.pooled(images)

    @torch.no_grad()
    def errors(self, images: Tensor) -> Tensor:
        """What the detectors measure, (B, 2): mean |x − AE_I(x)|² and mean |x − AE_II(x)|."""
        check_images(images, self.channels, weights=self)
        squared = (images - self.pooled(images)).square().mean((1, 2, 3))
        absolute = (images - self.flat(images)).abs().mean((1, 2, 3))
        return torch.stack([squared, absolute], 1)

    def rejects(self, images: Tensor) -> Tensor:
        """True (B,) where either error is above its threshold."""
        return (self.errors(images) > self.thresholds).any(1)

    @checked
    def fit(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        seed: int,
        epochs: Count = 100,
        batch_size: Count = 256,
        learning_rate: Positive = 1e-3,
        noise: Positive = 0.1,
        activity_l2: float = 1e-9,
        validation: Fraction = 1 / 12,
        false_positives: Fraction = 0.001,
    ) -> None:
        """Train both autoencoders to remove Gaussian noise, then set the thresholds.

        Images (N, C, H, W) in [0, 1]; labels are not used. The noise of standard deviation
        `noise` is drawn once per image; the loss is the mean squared error plus `activity_l2`
        times an image's squared activations, as released. A share `validation` of the images,
        drawn from `seed`, is held out; of these a detector rejects at most the share
        `false_positives` (⌊share · count⌋ images, so none of a small set).
        Raises ValueError for wrong shapes, ranges or settings.
        """
        check_training(images, labels, self.channels)
        held_out = max(1, round(validation * len(images)))
        if held_out >= len(images):
            raise ValueError(
                f"validation is {validation}, which leaves none of {len(images)} images to train "
                "on: expected a smaller share or more images"
            )
        source = generator(seed, "validation")
        order = torch.randperm(len(images), generator=source, device="cpu")
        clean = images[order[held_out:]]
        draws = generator(seed, "noise")
        initialize(self, seed, "glorot")
        for name, autoencoder in {"AE_I": self.pooled, "AE_II": self.flat}.items():
            gaussian = torch.randn(clean.shape, generator=draws, **DRAWN).to(clean)
            noisy = (clean + noise * gaussian).clamp(0, 1)

            def loss(
                batch: Tensor, autoencoder: nn.Module = autoencoder, noisy: Tensor = noisy
            ) -> dict[str, Tensor]:
                outputs = autoencoder.activations(noisy[batch])
                activity = sum(output.square().sum() for output in outputs) / len(batch)
                return {
                    "error": functional.mse_loss(outputs[-1], clean[batch]),
                    "activity": activity_l2 * activity,
                }

            minimize(
                loss,
                [(autoencoder.parameters(), learning_rate)],
                name=name,
                order=generator(seed, name, "order"),
                count=len(clean),
                epochs=epochs,
                batch_size=batch_size,
            )
        self.eval()
        kept = images[order[:held_out]].split(batch_size)
        errors = torch.cat([self.errors(batch) for batch in kept]).sort(0).values
        self.thresholds.copy_(errors[held_out - 1 - int(false_positives * held_out)])
