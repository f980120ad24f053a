"""How the pipeline trains its own image classifiers: noise, blur and flips against texture."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tandem_defense.classifiers.base import Classifier
from tandem_defense.device import DRAWN
from tandem_defense.settings import Count, Fraction, Positive, checked
from tandem_defense.training import drawing, generator, minimize, one_cycle, seeded


class Trainable(Classifier):
    """A classifier that the pipeline trains with cross-entropy, from seeded random weights."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.build()

    def build(self) -> None:
        """Make the layers; random initial weights are drawn from the global generator."""
        raise NotImplementedError

    @checked
    def fit(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        seed: int,
        epochs: Count = 20,
        batch_size: Count = 64,
        learning_rate: Positive = 2e-3,
        noise: Fraction = 0.0,
        blur: Fraction = 0.0,
    ) -> None:
        """Train on images (N, C, H, W) in [0, 1] and labels (N,) int64, one-cycle Adam.

        noise : Gaussian noise of a standard deviation drawn per image from U(0, `noise`)
        blur : share of the images that see a 3 × 3 average blur

        Both make the net look at shapes rather than at the finest texture. Flips and contrast
        (0.7 to 1.3) are always varied. Raises ValueError for wrong settings.
        """
        with seeded(seed):
            self.build()
        self.to(images.device).train()
        draws = generator(seed, "training")

        def loss(batch: Tensor) -> dict[str, Tensor]:
            logits, wanted = self(augment(images[batch], noise, blur, draws)), labels[batch]
            return {
                "cross-entropy": F.cross_entropy(logits, wanted),
                "training accuracy": (logits.argmax(1) == wanted).float().mean(),
            }

        with drawing(seed, images.device) as sources:
            minimize(
                loss,
                [(self.parameters(), learning_rate)],
                name="classifier",
                order=draws,
                count=len(images),
                epochs=epochs,
                batch_size=batch_size,
                schedule=one_cycle,
                also=[*self.buffers(), *sources],
            )
        self.eval()


def augment(x: Tensor, noise: float, blur: float, rng: torch.Generator) -> Tensor:
    """Flip, vary the contrast, blur and add noise to a batch (B, C, H, W), within [0, 1]."""

    def chance(p: float) -> Tensor:
        return (torch.rand(len(x), 1, 1, 1, generator=rng, **DRAWN) < p).to(x.device)

    x = torch.where(chance(0.5), x.flip(3), x)
    x = torch.where(chance(0.5), x.flip(2), x)
    gain = (0.7 + 0.6 * torch.rand(len(x), 1, 1, 1, generator=rng, **DRAWN)).to(x.device)
    x = ((x - 0.5) * gain + 0.5).clamp(0, 1)
    x = torch.where(chance(blur), F.avg_pool2d(F.pad(x, (1, 1, 1, 1), "reflect"), 3, 1), x)
    sigma = noise * torch.rand(len(x), 1, 1, 1, generator=rng, **DRAWN)
    return (x + (sigma * torch.randn(x.shape, generator=rng, **DRAWN)).to(x.device)).clamp(0, 1)


def conv_bn(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution, batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )
