"""Pictures made smaller."""

from dataclasses import replace

import numpy as np
import torch
from torch.nn.functional import interpolate

from tandem_defense.cli.pictures import Picture


def shrunk(picture: Picture, side: int) -> Picture:
    """The picture with `side` pixels along its longer side, by bicubic interpolation."""
    height, width, _ = picture.pixels.shape
    sizes = [max(1, round(n * side / max(height, width))) for n in (height, width)]

    def smaller(values: np.ndarray) -> np.ndarray:
        image = torch.from_numpy(values).permute(2, 0, 1)[None]
        image = interpolate(image, sizes, mode="bicubic", antialias=True).clamp(0, 1)
        return image[0].permute(1, 2, 0).numpy()

    alpha = None if picture.alpha is None else smaller(picture.alpha)
    return replace(picture, pixels=smaller(picture.pixels), alpha=alpha)
