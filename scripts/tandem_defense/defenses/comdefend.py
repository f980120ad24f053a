"""ComDefend: compress an image to a binary code and reconstruct it from there.

Jia, Wei, Cao and Foroosh, "ComDefend: An Efficient Image Compression Model to Defend
Adversarial Examples", CVPR 2019, with what the authors' released source adds.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from tandem_defense.defenses.base import Defense, names_of
from tandem_defense.device import DRAWN
from tandem_defense.seeds import derive_seed
from tandem_defense.settings import Count, Counts, Positive, checked
from tandem_defense.training import (
    check_images,
    check_training,
    constant,
    crop,
    generator,
    initialize,
    minimize,
    plateaus,
    seeded,
)


def stack(widths: Sequence[int]) -> nn.Sequential:
    """3×3 convolutions through `widths` channels with ELU in between, the size is kept."""
    layers: list[nn.Module] = []
    for i, o in pairwise(widths):
        layers += [nn.Conv2d(i, o, 3, padding=1), nn.ELU()]
    return nn.Sequential(*layers[:-1])


class ComDefend(Defense):
    """ComCNN, a binary code of `code` bits per pixel, RecCNN.

    ComCNN runs through `compression` channels to the code, RecCNN through `reconstruction`
    channels back to the image. At test time a bit is sigmoid(ComCNN(x − ½) − noise) > ½, with
    noise of standard deviation `test_noise` (the released sources have 1 and 20; 0 is without)
    that depends on `seed` and the image's id alone. Images (B, `channels`, H, W) of any size.

    weights : ``released``, the authors' networks for color images, or none to train here. Nothing
        is loaded by the constructor: the rule `convert_weights` stores them.
    """

    # The names in the manifest of what :meth:`read_checkpoint` takes.
    CHECKPOINT = ("comdefend/enc20_0.0001.npy", "comdefend/dec20_0.0001.npy")
    RELEASED = ("channels", "compression", "reconstruction", "code")

    channels: Count = 3
    compression: Counts = (16, 32, 64, 128, 256, 128, 64, 32)
    reconstruction: Counts = (32, 64, 128, 256, 128, 64, 32, 16)
    code: Count = 12
    test_noise: Literal[0, 1, 20] = 1
    weights: Literal["released"] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        with seeded(0):
            self.compress = stack((self.channels, *self.compression, self.code))
            self.reconstruct = stack((self.code, *self.reconstruction, self.channels))
        self.eval()

    def encode(self, images: Tensor, ids: Sequence[str] | None = None) -> Tensor:
        """The code, exactly 0 or 1, (B, code, H, W).

        Backward the rounding counts as the identity (straight through), so that an attack can
        go through the defense. Raises ValueError for wrong images or another number of ids.
        """
        check_images(images, self.channels, weights=self)
        names = names_of(images, ids)
        linear = self.compress(images - 0.5)
        if self.test_noise:
            noise = torch.zeros(linear.shape, **DRAWN)
            for i, name in enumerate(names):
                noise[i] = self.noise(linear.shape[1:], name)
            linear = linear - self.test_noise * noise.to(linear)
        soft = torch.sigmoid(linear)
        return (soft > 0.5).to(soft) + (soft - soft.detach())

    def noise(self, shape: torch.Size, name: str) -> Tensor:
        """Standard normal numbers for the image called `name`, on the CPU."""
        source = torch.Generator().manual_seed(derive_seed(self.seed, "comdefend", name))
        return torch.randn(shape, generator=source, **DRAWN)

    def forward(self, images: Tensor, ids: Sequence[str] | None = None) -> Tensor:
        """Images from their binary codes, shape and range as the input's."""
        return torch.sigmoid(self.reconstruct(self.encode(images, ids)))

    def read_checkpoint(self, compress: str, reconstruct: str) -> None:
        """Take the authors' two files, one per network.

        They are pickles, and a pickle runs whatever code is in it: compare the files' SHA-256 with
        the manifest's first, as the rule `convert_weights` does.
        Raises ValueError for a file of another network.
        """
        for network, path in ((self.compress, compress), (self.reconstruct, reconstruct)):
            with np.load(path, allow_pickle=True) as file:
                arrays = [torch.from_numpy(array) for array in file["w"]]
            # TensorFlow's kernels are (height, width, in, out), torch's (out, in, height, width).
            arrays = [a.permute(3, 2, 0, 1) if a.ndim == 4 else a for a in arrays]
            expected = [tuple(p.shape) for p in network.parameters()]
            if [tuple(a.shape) for a in arrays] != expected:
                raise ValueError(
                    f"{path} holds {[tuple(a.shape) for a in arrays]}, expected {expected}:"
                    " the released networks need the default compression, reconstruction and code"
                )
            with torch.no_grad():
                for parameter, array in zip(network.parameters(), arrays, strict=True):
                    parameter.copy_(array)

    @checked
    def fit(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        seed: int,
        epochs: Count = 30,
        batch_size: Count = 20,
        learning_rate: Positive = 1e-3,
        schedule: Literal["constant", "plateaus"] = "constant",
        patch: Count = 32,
        noise: Positive = 20.0,
        code_weight: float = 1e-4,
        precision: Literal["float32", "bf16"] = "float32",
    ) -> None:
        """Train both networks on `images` (N, C, H, W) in [0, 1]; labels are not used.

        A batch is one random square of `patch` pixels per image (the whole side, if that is
        smaller). Gaussian noise of standard deviation `noise` on the code, before the sigmoid,
        drives it to 0 and 1. Loss: mean squared error + `code_weight` · mean squared code.
        Adam's `learning_rate` is constant as in the release, or falls on ``plateaus``, to a tenth
        after 60 % of the epochs and a hundredth after 90 %: a long training at 1e-3 can break down.
        `precision` is what the layers compute in: ``bf16`` is several times faster where the
        machine has units for it (GPUs, CPUs with AMX), and many times slower on a CPU without.
        Raises ValueError for wrong shapes, ranges or settings.
        """
        check_training(images, labels, self.channels)
        initialize(self, seed)
        draws = generator(seed, "noise")

        def loss(batch: Tensor) -> dict[str, Tensor]:
            x = crop(images[batch], patch, draws)
            linear = self.compress(x - 0.5).to(x)
            gaussian = torch.randn(linear.shape, generator=draws, **DRAWN).to(linear)
            code = torch.sigmoid(linear - noise * gaussian)
            restored = torch.sigmoid(self.reconstruct(code).to(x))
            return {
                "error": (restored - x).square().mean(),
                "code": code_weight * code.square().mean(),
            }

        minimize(
            loss,
            [(self.parameters(), learning_rate)],
            name="ComDefend",
            order=generator(seed, "ComDefend", "order"),
            count=len(images),
            epochs=epochs,
            batch_size=batch_size,
            schedule=plateaus(epochs) if schedule == "plateaus" else constant,
            also=[draws],
            precision=precision,
        )
        self.eval()
