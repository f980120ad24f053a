"""A small convolutional classifier with global average pooling, trained in a minute on one core."""

import torch
from torch import Tensor, nn

from tandem_defense.classifiers.fitting import Trainable, conv_bn
from tandem_defense.settings import Count


class SmallCNN(Trainable):
    """Stem (7 × 7, stride 4), three 3 × 3 layers, global average pooling, linear.

    Images (B, `channels`, H, W) in [0, 1] of any size; `width` channels after the stem.
    The coarse stem makes perturbations of single pixels matter less than shapes do, as in the
    ImageNet nets of the paper, whose stems reduce 299 pixels to 75 or fewer.
    """

    classes: Count
    channels: Count = 3
    width: Count = 32

    def build(self) -> None:
        """Make the layers."""
        channels, width = self.channels, self.width
        self.features = nn.Sequential(
            conv_bn(channels, width, 7, 4),
            conv_bn(width, 2 * width),
            conv_bn(2 * width, 4 * width, 3, 2),
            conv_bn(4 * width, 4 * width),
        )
        self.fc = nn.Linear(4 * width, self.classes)

    def maps(self, images: Tensor) -> Tensor:
        """(B, 4 · width, H / 8, W / 8)."""
        return self.features((images - 0.5) / 0.25)

    def head(self, maps: Tensor) -> Tensor:
        """Global average pooling and the linear layer."""
        return self.fc(torch.flatten(maps.mean((2, 3)), 1))
