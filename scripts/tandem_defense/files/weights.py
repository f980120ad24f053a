"""A module's weights, with the settings that define the module."""

from collections.abc import Mapping
from pathlib import Path

from tandem_defense.files.arrays import RULES as RULES_OF_ALL
from tandem_defense.files.arrays import check, read, write

RULES = RULES_OF_ALL["weights"]


def write_weights(path: str | Path, state: Mapping, settings: dict) -> None:
    """Store a module's state dict (torch tensors) with the settings that define the module."""
    arrays = {name: value.detach().cpu().numpy() for name, value in state.items()}
    write(path, "weights", arrays, settings=settings)


def read_weights(path: str | Path, settings: dict) -> dict:
    """A state dict of torch tensors, for a module with these settings.

    Raises CacheError if the file is unusable or holds weights for other settings.
    """
    import torch  # here, because all other readers work without it

    arrays, metadata = read(path, "weights")
    check(
        path,
        "weights",
        metadata.get("settings") == settings,
        f"holds weights for {metadata.get('settings')}, not for {settings}",
    )
    sound = not any((a != a).any() for a in arrays.values() if a.dtype.kind == "f")
    check(path, "weights", sound, "holds weights that are NaN")
    return {name: torch.from_numpy(value) for name, value in arrays.items()}
