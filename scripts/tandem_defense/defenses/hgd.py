"""HGD: a denoiser that is guided by the classifier's reaction, not by the pixels.

Liao et al., "Defense against Adversarial Attacks Using High-Level Representation Guided
Denoiser", CVPR 2018, with the network and the schedule of the authors' released source.
"""

import logging
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from tandem_defense.classifiers.base import Classifier
from tandem_defense.defenses.base import Defense
from tandem_defense.device import DRAWN
from tandem_defense.pipeline import checkpoint
from tandem_defense.settings import Count, Counts, Epsilon, Positive, Size, checked
from tandem_defense.training import (
    Schedule,
    check_images,
    check_training,
    constant,
    crop,
    frozen,
    generator,
    initialize,
    minimize,
    plateaus,
    seeded,
)

log = logging.getLogger(__name__)


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
        check_images(images, self.channels, weights=self)
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
        crop_epochs: Size = 0,
        crops: Count = 4,
        side: Count = 128,
        epochs: Count = 30,
        batch_size: Count = 32,
        learning_rate: Positive = 1e-2,
        precision: Literal["float32", "bf16"] = "float32",
    ) -> None:
        """Train on `images` (N, C, H, W) in [0, 1], clean and attacked, guided by `classifier`.

        The loss is the mean absolute difference between the classifier's logits (LGD) or
        pooled last maps (FGD) of the denoised and of the clean image. The classifier lives on
        the images' device, is in eval mode meanwhile and does not change.

        It starts as the identity: 1×1 weights of zero. First come `crop_epochs` epochs on squares
        of `side` pixels, `crops` random ones of each image, then `epochs` on whole images. Squares
        and images are attacked once, before their epochs, see :func:`attack_all`: a piece of an
        attacked image need not deceive. A batch shows each as it was or attacked, one as likely as
        the other. Adam has `learning_rate`; in the epochs on whole images it falls to a tenth after
        60 % and a hundredth after 90 %. The release attacks several networks, with sizes up to
        15/255, and has whole images alone. Labels are not used: an attack leads away from the
        classifier's own answer. `precision` is what the layers of both networks compute in, but
        for the attacks: ``bf16`` is faster where the machine has units for it (GPUs, CPUs with
        AMX), and many times slower on a CPU without. Raises ValueError for wrong shapes, ranges or
        settings.
        """
        check_training(images, labels, self.channels)
        initialize(self, seed)
        nn.init.zeros_(self.last.weight)
        draws = generator(seed, "attacks")
        respond = classifier if guidance == "logits" else lambda x: classifier.maps(x).mean((2, 3))

        def train(name: str, clean: Tensor, epochs: int, schedule: Schedule) -> None:
            # The networks' convolutions follow this layout, which needs no reordering on a CPU.
            clean = clean.contiguous(memory_format=torch.channels_last)
            attacked = attack_all(classifier, clean, epsilon, seed, batch_size)
            with torch.no_grad():
                wanted = torch.cat([respond(part) for part in clean.split(batch_size)])

            def loss(batch: Tensor) -> dict[str, Tensor]:
                shown = torch.where(
                    (torch.rand((len(batch), 1, 1, 1), generator=draws, **DRAWN) < 0.5).to(
                        clean.device
                    ),
                    clean[batch],
                    attacked[batch].to(clean) / 255,
                )
                answer = respond(self.forward(shown)).to(wanted)
                return {guidance: functional.l1_loss(answer, wanted[batch])}

            minimize(
                loss,
                [(self.parameters(), learning_rate)],
                name=name,
                order=generator(seed, name, "order"),
                count=len(clean),
                epochs=epochs,
                batch_size=batch_size,
                schedule=schedule,
                also=[*self.buffers(), draws],
                precision=precision,
            )

        with frozen(classifier):
            self.train()
            if crop_epochs:
                squares = torch.cat([crop(images, side, draws) for _ in range(crops)])
                train("squares", squares, crop_epochs, constant)
            train("HGD", images, epochs, plateaus(epochs))
        self.eval()


STEPS = (1, 2, 4, 8)  # of the attacks on the training images, a quarter of them each


def attack_all(
    classifier: nn.Module, images: Tensor, epsilon: float, seed: int, batch_size: int
) -> Tensor:
    """Each image attacked once, (N, C, H, W), 8-bit as the release's files.

    With 1 (FGSM), 2, 4 or 8 steps in turn, and a size for each from U(0, `epsilon`).
    """
    attacked = torch.zeros(images.shape, dtype=torch.uint8, device=images.device)
    source = generator(seed, "sizes")
    sizes = epsilon * torch.rand((len(images), 1, 1, 1), generator=source, **DRAWN)
    batches = [
        (steps, batch)
        for i, steps in enumerate(STEPS)
        for batch in torch.arange(len(images), device="cpu")[i :: len(STEPS)].split(batch_size)
        if len(batch)
    ]
    part = checkpoint.part("attacked", {"images": attacked}, done=0).resume()
    at = part.progress["done"]
    if at:
        log.info("attacks: going on after batch %d of %d", at, len(batches))
    for done, (steps, batch) in enumerate(batches[at:], at):
        found = attack(classifier, images[batch], sizes[batch].to(images), steps)
        attacked[batch] = (found * 255).round().to(torch.uint8)
        part.progress["done"] = done + 1
        if part.due():
            part.save()
    return attacked


def attack(classifier: nn.Module, images: Tensor, sizes: Tensor, steps: int) -> Tensor:
    """Images after `steps` equal steps along the gradient's sign, `sizes` (B, 1, 1, 1) in total.

    One step is FGSM, more are BIM. The loss is the cross-entropy to the classifier's own
    prediction, as in the release's attacks; the result stays in [0, 1].
    """
    attacked = images
    with torch.no_grad():
        answers = classifier(images).argmax(1)
    for _ in range(steps):
        attacked = attacked.detach().requires_grad_()
        loss = functional.cross_entropy(classifier(attacked), answers, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, attacked)
        attacked = (attacked.detach() + sizes / steps * gradient.sign()).clamp(0, 1)
    return attacked.detach()
