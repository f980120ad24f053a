"""Controls: transformations without training that any defense should beat."""

import io
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from tandem_defense.defenses.base import Defense
from tandem_defense.settings import OddCount, Percent
from tandem_defense.training import check_finite, check_images


class AverageBlur(Defense):
    """The mean over a square of `kernel` × `kernel` pixels (odd), the image mirrored at its edge.

    The pixel on the edge is not repeated (torch's ``reflect``, SciPy's ``mirror``), so images
    must be larger than kernel // 2 on both sides.
    """

    kernel: OddCount = 3

    def forward(self, images: Tensor, ids: Sequence[str] | None = None) -> Tensor:
        """Blurred images, shape and range as the input's; differentiable."""
        check_images(images, None)
        margin = self.kernel // 2
        if min(images.shape[2:]) <= margin:
            raise ValueError(
                f"images have the shape {tuple(images.shape)}, expected (B, C, H, W) with H and "
                f"W > {margin}: use larger images or a kernel below {self.kernel}"
            )
        padded = functional.pad(images, (margin,) * 4, mode="reflect")
        return functional.avg_pool2d(padded, self.kernel, stride=1)


class JPEG(Defense):
    """An 8-bit JPEG round trip of `quality` 1 to 100, by Pillow, in memory, image by image.

    Deterministic, and without an exact `gradient` (see :class:`Defense`).
    """

    quality: Percent = 75

    def forward(self, images: Tensor, ids: Sequence[str] | None = None) -> Tensor:
        """Compressed images (B, 1 or 3, H, W), device and type as the input's."""
        check_images(images, None)
        check_finite(images)  # 8 bits have no NaN, it would become black
        if images.shape[1] not in (1, 3):
            raise ValueError(
                f"images have the shape {tuple(images.shape)}, expected (B, C, H, W) with 1 or 3 "
                "channels: drop alpha channels"
            )
        pixels = images.mul(255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
        result = torch.empty_like(images)
        for position, image in enumerate(pixels):
            result[position] = self.compress(image).to(images)
        return result

    def through(self, images: Tensor, ids: Sequence[str] | None = None) -> Tensor:
        """As a call; backward the rounding of coefficients and pixels counts as the identity.

        The cosine transform and its inverse then cancel, and what is left is the mean of the two
        chroma channels over squares of 2 × 2 pixels, which Pillow's files have.
        """
        smooth = chroma_halved(images) if images.shape[1] == 3 else images
        return smooth + (self(images.detach()) - smooth).detach()

    def compress(self, pixels: np.ndarray) -> Tensor:
        """One image's round trip: (H, W, C) uint8 to (C, H, W) in [0, 1]."""
        file = io.BytesIO()
        Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(
            file, format="JPEG", quality=self.quality
        )
        back = np.array(Image.open(file, formats=["JPEG"]), dtype=np.float32) / 255
        return torch.from_numpy(back.reshape(pixels.shape)).permute(2, 0, 1)


def chroma_halved(images: Tensor) -> Tensor:
    """Images (B, 3, H, W) whose chroma (BT.601) is the mean of 2 × 2 pixels, the luma as it is."""
    luma = images.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    y = (luma * images).sum(1, keepdim=True)
    chroma = functional.avg_pool2d(images - y, 2, ceil_mode=True, count_include_pad=False)
    chroma = chroma.repeat_interleave(2, 2).repeat_interleave(2, 3)
    return y + chroma[..., : images.shape[2], : images.shape[3]]
