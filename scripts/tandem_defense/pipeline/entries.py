"""Modules with their weights, and chunks of images as tensors."""

import torch
from torch import nn

from tandem_defense.files.base import FileError, made_by
from tandem_defense.files.weights import RULES, read_weights
from tandem_defense.pipeline.classes import Entry, build, identity


def load(entry: Entry, weights: str | None, device: torch.device, seed: int = 0) -> nn.Module:
    """The module of an entry with its stored weights, frozen, in eval mode, on `device`."""
    module = build(entry, seed)
    if weights is not None:
        state = read_weights(weights, identity(entry))
        try:
            module.load_state_dict(state)
        except RuntimeError as error:  # names or shapes
            reason = f"does not fit {entry['class']} ({error})"
            raise FileError(weights, reason, made_by(RULES)) from error
    return module.to(device).eval().requires_grad_(False)


def to_tensor(images) -> torch.Tensor:
    """(N, H, W, C) uint8 to (N, C, H, W) float32 in [0, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(255)
