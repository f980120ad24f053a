"""HGD: a denoiser that is guided by the classifier's reaction, not by the pixels.

Liao et al., "Defense against Adversarial Attacks Using High-Level Representation Guided
Denoiser", CVPR 2018, with the network and the schedule of the authors' released source.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from tandem_defense.classifiers.base import Classifier
from tandem_defense.defenses.base import Defense
from tandem_defense.settings import Count, Counts, Epsilon, Positive, checked
from tandem_defense.training import (
    check_images,
    check_training,
    frozen,
    generator,
    initialize,
    minimize,
    seeded,
)


def block(entry: int, width: int, depth: int, stride: int = 1) -> nn.Sequential:
    """`depth` times 3×3 convolution, batch norm, ReLU; the first with `stride`."""
    layers: list[nn.Module] = []
    for i in range(depth):
        layers += [
            nn.Conv2d(entry if i == 0 else width, width, 3, stride if i == 0 else 1, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers)


class HGD(Defense):
    """The denoising U-Net: x − dx, clamped to [0, 1]; images (B, `channels`, H, W) of any size.

    Forward, each block but the first halves the size (odd ones are rounded up):
    `forward_depths` layers of `widths` channels. Backward, bilinear upsampling to the size of
    the forward block of the same level and concatenation with it: `backward_depths` layers,
    the first listed is the largest. A 1×1 convolution without bias gives dx.
    """

    channels: Count = 3
    widths: Counts = (64, 128, 256, 256, 256)
    forward_depths: Counts = (2, 3, 3, 3, 3)
    backward_depths: Counts = (2, 3, 3, 3)

    CONDITIONS = {
        "len(widths) >= 2": "a U-Net has at least two levels",
        "len(forward_depths) == len(widths)": "give each level one entry",
        "len(backward_depths) == len(widths) - 1": "the smallest level has no way back",
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        channels, widths = self.channels, self.widths
        forward_depths, backward_depths = self.forward_depths, self.backward_depths
        entries = (channels, *widths[:-1])
        with seeded(0):
            self.down = nn.ModuleList(
                block(entry, width, depth, stride=1 if level == 0 else 2)
                for level, (entry, width, depth) in enumerate(
                    zip(entries, widths, forward_depths, strict=True)
                )
            )
            self.up = nn.ModuleList(
                block(skip + below, skip, depth)
                for skip, below, depth in zip(widths, widths[1:], backward_depths, strict=False)
            )
            self.last = nn.Conv2d(widths[0], channels, 1, bias=False)
        self.eval()

    def forward(self, images: Tensor, ids: Sequence[str] | None = None) -> Tensor:
        """Denoised images, shape and range as the input's; differentiable.

        Raises ValueError for images of another number of channels or not floating point.
        """
        check_images(images, self.channels)
        x, skips = images, []
        for down in self.down:
            x = down(x)
            skips.append(x)
        for up, skip in zip(reversed(self.up), reversed(skips[:-1]), strict=True):
            x = functional.interpolate(x, skip.shape[2:], mode="bilinear", align_corners=False)
            x = up(torch.cat([x, skip], 1))
        return (images - self.last(x)).clamp(0, 1)

    @checked
    def fit(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        seed: int,
        classifier: Classifier,
        guidance: Literal["logits", "features"] = "logits",
        epsilon: Epsilon = 8 / 255,
        epochs: Count = 30,
        batch_size: Count = 32,
        learning_rate: Positive = 1e-2,
    ) -> None:
        """Train on `images` (N, C, H, W) in [0, 1], clean and attacked, guided by `classifier`.

        The loss is the mean absolute difference between the classifier's logits (LGD) or
        pooled last maps (FGD) of the denoised and of the clean image. The classifier lives on
        the images' device, is in eval mode meanwhile and does not change.

        A batch is a fifth clean images, and a fifth each attacked by :func:`attack` with
        1 (FGSM), 2, 4 and 8 steps, with a size for each image from U(0, `epsilon`). The release
        attacks several networks with 1 to 8 steps and whole sizes up to 15/255, beforehand.
        Adam at `learning_rate`, a tenth of it after 60 % and a hundredth after 90 % of the
        epochs. Labels are not used: an attack leads away from the classifier's own answer.
        Raises ValueError for wrong shapes, ranges or settings.
        """
        check_training(images, labels, self.channels)
        initialize(self, seed)
        # The networks' convolutions follow this layout, which needs no reordering on a CPU.
        images = images.contiguous(memory_format=torch.channels_last)
        draws = generator(seed, "attacks")
        respond = classifier if guidance == "logits" else lambda x: classifier.maps(x).mean((2, 3))

        def loss(batch: Tensor) -> dict[str, Tensor]:
            clean = images[batch]
            sizes = epsilon * torch.rand((len(batch), 1, 1, 1), generator=draws).to(clean)
            parts = [part.tensor_split(len(STEPS)) for part in (clean, sizes)]
            attacked = torch.cat(
                [attack(classifier, *part) for part in zip(*parts, STEPS, strict=True)]
            )
            with torch.no_grad():
                wanted = respond(clean)
            return {guidance: functional.l1_loss(respond(self.forward(attacked)), wanted)}

        def plateaus(step: int, steps: int) -> tuple[float, float]:
            over = step * epochs // steps / epochs  # the share of whole epochs
            return (1.0 if over < 0.6 else 0.1 if over < 0.9 else 0.01), 0.9

        with frozen(classifier):
            self.train()
            minimize(
                loss,
                [(self.parameters(), learning_rate)],
                name="HGD",
                order=generator(seed, "HGD", "order"),
                count=len(images),
                epochs=epochs,
                batch_size=batch_size,
                schedule=plateaus,
                also=[*self.buffers(), draws],
            )
        self.eval()


STEPS = (0, 1, 2, 4, 8)  # of the attacks on the parts of a training batch, 0 is clean


def attack(classifier: nn.Module, images: Tensor, sizes: Tensor, steps: int) -> Tensor:
    """Images after `steps` equal steps along the gradient's sign, `sizes` (B, 1, 1, 1) in total.

    One step is FGSM, more are BIM. The loss is the cross-entropy to the classifier's own
    prediction, as in the release's attacks; the result stays in [0, 1].
    """
    attacked = images
    with torch.no_grad():
        answers = classifier(images).argmax(1) if steps else None
    for _ in range(steps):
        attacked = attacked.detach().requires_grad_()
        loss = functional.cross_entropy(classifier(attacked), answers, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, attacked)
        attacked = (attacked.detach() + sizes / steps * gradient.sign()).clamp(0, 1)
    return attacked.detach()
