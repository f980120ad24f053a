"""Classifiers and defenses from their configuration entries and stored weights."""

import inspect

import torch
from torch import nn

from tandem_defense import cache, registry
from tandem_defense.configuration import REGISTRIES, entry_settings
from tandem_defense.files import FileError, made_by


def build(section: str, entry: dict, seed: int = 0) -> object:
    """An object of the class that `entry` names, with its settings; seeded if it takes a seed."""
    cls = registry.load(REGISTRIES[section][entry["kind"]])
    seeded = "seed" in inspect.signature(cls).parameters
    return cls(**entry_settings(entry), **({"seed": seed} if seeded else {}))


def load(
    section: str, entry: dict, weights: str | None, device: torch.device, seed: int = 0
) -> nn.Module:
    """The module of an entry with its stored weights, frozen, in eval mode, on `device`."""
    module = build(section, entry, seed)
    if weights is not None:
        state = cache.read_weights(weights, identity(entry))
        try:
            module.load_state_dict(state)
        except RuntimeError as error:  # names or shapes
            found = f"does not fit a {entry['kind']} ({error})"
            raise FileError(weights, found, made_by(cache.RULES["weights"])) from error
    return module.to(device).eval().requires_grad_(False)


def identity(entry: dict) -> dict:
    """What stored weights belong to: kind and settings, as JSON would give them back."""
    return {"kind": entry["kind"]} | entry_settings(entry)


def chunk_positions(scatteritem: str, images: int) -> slice:
    """Positions of the images in chunk ``"2-of-8"``: contiguous, sizes differ by one at most."""
    part, parts = map(int, scatteritem.split("-of-"))
    return slice((part - 1) * images // parts, part * images // parts)


def to_tensor(images) -> torch.Tensor:
    """(N, H, W, C) uint8 to (N, C, H, W) float32 in [0, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(255)
