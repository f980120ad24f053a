"""Restored images that figures show, per read-out."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tandem_defense.files.arrays import check, in_range, names, read, unusable, write


def write_restored(path: str | Path, images: Mapping[str, np.ndarray], ids: list[str]) -> None:
    """Store restored images (N, C, H, W) float32 per read-out, keys ``"first/iteration"``.

    ``"first/0"`` is the first network's output.
    """
    write(path, "restored", images, ids=list(ids))


def read_restored(path: str | Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """Restored images per read-out, and their ids. Raises CacheError for anything else."""
    arrays, metadata = read(path, "restored")
    try:
        ids = list(names(metadata["ids"]))
    except (KeyError, TypeError) as error:
        raise unusable(path, "restored", f"lacks {error}") from error
    for images in arrays.values():
        alike = images.ndim == 4 and len(images) == len(ids)
        check(path, "restored", alike, "has unequal lengths")
        sound = in_range(images)
        check(path, "restored", sound, "holds images that are not float32 in [0, 1]")
    return arrays, ids
