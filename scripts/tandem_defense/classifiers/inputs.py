"""What networks of others want their images to be: resized and normalized."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Mean and standard deviation that the images are normalized with, per channel or for all.
NORMALIZATION = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5,), (0.5,)),
    "none": ((0.0,), (1.0,)),
}


class Prepare(nn.Module):
    """Images (B, C, H, W) in [0, 1] to what a network was trained on.

    They are resized to `size` × `size` (bilinear, antialiased) where they have another size and
    `size` is not 0. `mean` and `std` of the normalization are one for all channels, or one per
    channel: three of them make three channels of a gray one. Nothing of it is in a state dict.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], size: int = 0):
        super().__init__()
        self.size = size
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """The network's input, (B, C, H, W) or (B, C, size, size)."""
        if self.size and tuple(images.shape[2:]) != (self.size, self.size):
            size = (self.size, self.size)
            images = F.interpolate(images, size, mode="bilinear", antialias=True)
        return (images - self.mean) / self.std
