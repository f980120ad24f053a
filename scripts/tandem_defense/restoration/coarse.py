"""Coarse to fine: a fit's first steps at half the resolution, on a quarter of the pixels.

The weights fit both sizes, as all layers are convolutions, and carry over with Adam's averages; the
moving average of the images carries over enlarged.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from tandem_defense.restoration.record import State

LEAST = 128  # pixels of each side: half of it is the smallest image that the networks take


def halve(image: Tensor) -> Tensor:
    """(C, H, W) to (C, ⌊H / 2⌋, ⌊W / 2⌋), each pixel the mean of those that it covers.

    In float64, where the device has it, whatever the image's type: so all precisions start alike.
    """
    exact = torch.float32 if image.device.type == "mps" else torch.float64
    return F.adaptive_avg_pool2d(image.to(exact), tuple(n // 2 for n in image.shape[1:]))


def enlarge(images: Tensor, size: tuple[int, int]) -> Tensor:
    """(..., C, h, w) to (..., C, H, W), bilinear; images that have that size stay as they are."""
    if images.shape[-2:] == tuple(size):
        return images
    whole = F.interpolate(images.reshape(-1, *images.shape[-3:]), tuple(size), mode="bilinear")
    return whole.reshape(*images.shape[:-2], *size)


def refined(state: State, size: tuple[int, int]) -> State:
    """What a fit at half the resolution hands over to the whole one."""
    return state | {"average": enlarge(state["average"], size)}


def check(steps: int, size: tuple[int, int]) -> None:
    """Raise ValueError for images that are too small for `steps` coarse steps."""
    if steps and min(size) < LEAST:
        raise ValueError(
            f"coarse steps need images of at least {LEAST} × {LEAST} pixels, found"
            f" {size[0]} × {size[1]}: set coarse to 0"
        )
