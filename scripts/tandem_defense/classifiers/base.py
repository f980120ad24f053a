"""What every classifier offers: logits, and the maps behind them for localization and guidance."""

import torch
from torch import Tensor, nn

from tandem_defense.settings import Settings


class Classifier(Settings, nn.Module):
    """Images (B, C, H, W) float in [0, 1] to logits (B, K).

    A subclass defines :meth:`maps` (the last convolutional features) and :meth:`head`
    (global average pooling and whatever follows). Normalization and resizing belong to `maps`.
    A subclass with many architectures may say which of them have maps (``MAPS``, a pattern of their
    names) and from which package's source the names are read (``ARCHITECTURES``).
    A classifier that the pipeline trains also has ``fit(images, labels, *, seed, ...)``. Settings
    are annotated attributes (settings.py); layers are made in ``__post_init__``.
    """

    def maps(self, images: Tensor) -> Tensor:
        """Last feature maps before pooling, (B, F, h, w)."""
        raise NotImplementedError

    def head(self, maps: Tensor) -> Tensor:
        """Logits (B, K) from the feature maps."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """Logits, (B, K)."""
        return self.head(self.maps(images))

    @torch.no_grad()
    def predict(self, images: Tensor, batch_size: int = 64) -> Tensor:
        """Predicted classes, (B,) int64 on the CPU; `images` may live on another device.

        They stay as they are, also where the network works in place.
        """
        device = next(self.parameters()).device
        batches = images.split(batch_size) if len(images) else [images]
        return torch.cat([self(b.to(device, copy=True)).argmax(1).cpu() for b in batches])
