"""Files between jobs: typed, checksummed, written atomically, checked when read; never pickles.

Each is a safetensors file whose metadata hold the kind of content, names and settings as JSON and
a SHA-256 of everything. Reading needs no torch.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from tandem_defense.datasets.base import ImageSet

# Which rule makes which kind of file: what an error tells the reader to run again.
RULES = {
    "images": "prepare_images",
    "adversarial": "attack",
    "restored": "restore",
    "weights": "train_classifier, train_defense or convert_weights",
    "checkpoint": "restore, train_classifier or train_defense",
}


class CacheError(Exception):
    """A file between jobs cannot be used; the message says why and which rule makes it anew.

    reason : the first half of the message
    """

    def __init__(self, reason: str, remedy: str):
        super().__init__(f"{reason}. {remedy}")
        self.reason = reason


def write(path: str | Path, kind: str, tensors: Mapping[str, np.ndarray], **metadata) -> None:
    """Write named arrays and JSON-able metadata; the name appears only when all is on disk."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {name: np.asarray(value, order="C") for name, value in tensors.items()}
    content = json.dumps({"kind": kind, "metadata": metadata})
    # One key: safetensors keeps no order among several, and equal content shall be equal bytes.
    text = {"tandem_defense": json.dumps([_digest(arrays, content), content])}
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(save(arrays, text))
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def read(path: str | Path, kind: str) -> tuple[dict[str, np.ndarray], dict]:
    """The arrays and metadata of a file of this kind.

    Raises CacheError if the file is missing, truncated, altered, not ours or of another kind.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise _unusable(path, kind, f"cannot be read ({error.strerror})") from error
    if not data:
        raise _unusable(path, kind, "is empty")
    try:
        arrays = load(data)
        size = int.from_bytes(data[:8], "little")
        digest, content = json.loads(
            json.loads(data[8 : 8 + size])["__metadata__"]["tandem_defense"]
        )
        found = json.loads(content)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise _unusable(path, kind, f"is truncated or not one of ours ({error})") from error
    if digest != _digest(arrays, content):
        raise _unusable(path, kind, "was altered after it was written (its checksum differs)")
    if found["kind"] != kind:
        raise _unusable(path, kind, f"holds {found['kind']!r}, not {kind!r}")
    return arrays, found["metadata"]


def _digest(arrays: Mapping[str, np.ndarray], content: str) -> str:
    total = sha256(content.encode())
    for name in sorted(arrays):
        total.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        total.update(arrays[name].data)
    return total.hexdigest()


def _unusable(path: str | Path, kind: str, why: str) -> CacheError:
    return CacheError(
        f"{path} {why}",
        "Delete it and run the same snakemake command again:"
        f" rule {RULES[kind]} makes it anew, and nothing else is lost.",
    )


def _check(path: str | Path, kind: str, holds: bool, why: str) -> None:
    if not holds:
        raise _unusable(path, kind, why)


def write_images(path: str | Path, images: ImageSet) -> None:
    """Store one split of a dataset, 8 bits per channel."""
    names = {"ids": images.ids, "classes": images.classes, "credits": images.credits}
    write(path, "images", {"images": images.images, "labels": images.labels}, **names)


def read_images(path: str | Path) -> ImageSet:
    """One split of a dataset. Raises CacheError for anything else."""
    arrays, metadata = read(path, "images")
    try:
        names = [tuple(metadata[name]) for name in ("ids", "classes", "credits")]
        found = ImageSet(arrays["images"], arrays["labels"], *names)
    except KeyError as error:
        raise _unusable(path, "images", f"lacks {error}") from error
    _check_labeled(path, "images", found.images, found.labels, found.ids, len(found.classes))
    _check(path, "images", found.images.dtype == np.uint8, "does not hold 8-bit images")
    return found


def _check_labeled(path, kind, images, labels, ids, classes) -> None:
    n = len(ids)
    _check(path, kind, images.ndim == 4 and len(images) == n == len(labels), "has unequal lengths")
    _check(path, kind, len(set(ids)) == n, "names an image twice")
    inside = labels.dtype == np.int64 and (n == 0 or 0 <= labels.min() <= labels.max() < classes)
    _check(path, kind, inside, f"has labels outside 0 to {classes - 1}")


@dataclass(frozen=True)
class AdversarialSet:
    """One chunk of attacked images.

    images : (N, C, H, W) float32 in [0, 1]
    labels, clean_prediction, prediction : (N,) int64; the bare classifier's classes before, after
    success, clipped : (N,) bool; it is fooled, the L∞ clip changed the attack's result
    linf, l2 : (N,) float32, realised norms of the perturbation
    ids : N names
    settings : the attack's configuration entry and seed
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
    names = {"ids": chunk.ids, "settings": chunk.settings, "classes": chunk.classes}
    write(path, "adversarial", arrays, **names)


def read_adversarial(path: str | Path) -> AdversarialSet:
    """One chunk of attacked images. Raises CacheError for anything else, NaN included."""
    arrays, metadata = read(path, "adversarial")
    try:
        chunk = AdversarialSet(
            *(arrays[name] for name in _ARRAYS),
            tuple(metadata["ids"]),
            metadata["settings"],
            metadata["classes"],
        )
    except KeyError as error:
        raise _unusable(path, "adversarial", f"lacks {error}") from error
    images = chunk.images
    _check_labeled(path, "adversarial", images, chunk.labels, chunk.ids, chunk.classes)
    lengths = {len(getattr(chunk, name)) for name in _ARRAYS}
    _check(path, "adversarial", lengths == {len(chunk.ids)}, "has unequal lengths")
    # A comparison with NaN is false, so this finds NaN and infinities too.
    sound = images.dtype == np.float32 and bool(np.all((images >= 0) & (images <= 1)))
    _check(path, "adversarial", sound, "holds images that are not float32 in [0, 1]")
    return chunk


def write_restored(path: str | Path, images: Mapping[str, np.ndarray], ids: list[str]) -> None:
    """Store restored images (N, C, H, W) float32 per read-out, keys ``"first/iteration"``."""
    write(path, "restored", images, ids=list(ids))


def read_restored(path: str | Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """Restored images per read-out, and their ids. Raises CacheError for anything else."""
    arrays, metadata = read(path, "restored")
    return arrays, metadata["ids"]


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
    _check(
        path,
        "weights",
        metadata["settings"] == settings,
        f"holds weights for {metadata['settings']}, not for {settings}",
    )
    return {name: torch.from_numpy(value) for name, value in arrays.items()}
