"""The adversarial cache: a chunk of attacked images with what the attack did to each."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tandem_defense.files.arrays import (
    check,
    check_labeled,
    in_range,
    inside,
    names,
    read,
    unusable,
    write,
)


@dataclass(frozen=True)
class AdversarialSet:
    """One chunk of attacked images.

    images : (N, C, H, W) float32 in [0, 1]
    labels, clean_prediction, prediction : (N,) int64; the bare classifier's classes before, after
    success, clipped : (N,) bool; it is fooled, the L∞ clip changed the attack's result
    linf, l2 : (N,) float32, realized norms of the perturbation
    ids : N names
    settings : the attack's class, settings and seed
    classes : number of classes
    """

    images: np.ndarray
    labels: np.ndarray
    clean_prediction: np.ndarray
    prediction: np.ndarray
    success: np.ndarray
    clipped: np.ndarray
    linf: np.ndarray
    l2: np.ndarray
    ids: tuple[str, ...]
    settings: dict
    classes: int


_ARRAYS = ("images", "labels", "clean_prediction", "prediction")
_ARRAYS += ("success", "clipped", "linf", "l2")


def write_adversarial(path: str | Path, chunk: AdversarialSet) -> None:
    """Store one chunk of attacked images, float32: 8-bit rounding would undo minimal attacks."""
    arrays = {name: getattr(chunk, name) for name in _ARRAYS}
    texts = {"ids": chunk.ids, "settings": chunk.settings, "classes": chunk.classes}
    write(path, "adversarial", arrays, **texts)


def read_adversarial(path: str | Path) -> AdversarialSet:
    """One chunk of attacked images. Raises CacheError for anything else, NaN included."""
    arrays, metadata = read(path, "adversarial")
    try:
        chunk = AdversarialSet(
            *(arrays[name] for name in _ARRAYS),
            names(metadata["ids"]),
            dict(metadata["settings"]),
            int(metadata["classes"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise unusable(path, "adversarial", f"lacks {error}") from error

    def demand(holds: bool, why: str) -> None:
        check(path, "adversarial", holds, why)

    check_labeled(path, "adversarial", chunk.images, chunk.labels, chunk.ids, chunk.classes)
    shapes = {getattr(chunk, name).shape for name in _ARRAYS[1:]}
    demand(shapes == {(len(chunk.ids),)}, "has unequal lengths")
    demand(in_range(chunk.images), "holds images that are not float32 in [0, 1]")
    for values in (chunk.clean_prediction, chunk.prediction):
        # A classifier may know of more classes than the images have.
        demand(inside(values, 2**63), "has predictions that are not class numbers")
    demand(chunk.success.dtype == chunk.clipped.dtype == bool, "has flags that are not boolean")
    for values in (chunk.linf, chunk.l2):
        sound = values.dtype == np.float32 and bool(np.all((values >= 0) & np.isfinite(values)))
        demand(sound, "has norms that are not float32, finite and ≥ 0")
    return chunk
