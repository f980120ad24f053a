"""Files between jobs: typed, checksummed, written atomically, checked when read; never pickles.

Each is a safetensors file whose metadata hold the kind of content, names and settings as JSON and
a SHA-256 of everything. Reading needs no torch.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from tandem_defense.datasets.base import ImageSet
from tandem_defense.files import FileError, made_by, replacing

# Which rule makes which kind of file: what an error tells the reader to run again.
RULES = {
    "images": "prepare_images",
    "adversarial": "attack",
    "restored": "restore",
    "weights": "train_classifier, train_defense or convert_weights",
    "checkpoint": "restore, train_classifier or train_defense",
}


class CacheError(FileError):
    """A file between jobs cannot be used; the message says why and which rule makes it anew."""


def write(path: str | Path, kind: str, tensors: Mapping[str, np.ndarray], **metadata) -> None:
    """Write named arrays and JSON-able metadata; the name appears only when all is on disk."""
    arrays = {name: np.asarray(value, order="C") for name, value in tensors.items()}
    content = json.dumps({"kind": kind, "metadata": metadata})
    # One key: safetensors keeps no order among several, and equal content shall be equal bytes.
    text = {"tandem_defense": json.dumps([_digest(arrays, content), content])}
    with replacing(path) as part:
        part.write_bytes(save(arrays, text))


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
        holds, metadata = found["kind"], found["metadata"]
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _unusable(path, kind, f"is truncated or not one of ours ({error})") from error
    if digest != _digest(arrays, content):
        raise _unusable(path, kind, "was altered after it was written (its checksum differs)")
    if holds != kind:
        raise _unusable(path, kind, f"holds {holds!r}, not {kind!r}")
    _check(path, kind, isinstance(metadata, dict), "has no metadata")
    return arrays, metadata


def _digest(arrays: Mapping[str, np.ndarray], content: str) -> str:
    total = sha256(content.encode())
    for name in sorted(arrays):
        total.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        total.update(arrays[name].data)
    return total.hexdigest()


def _unusable(path: str | Path, kind: str, why: str) -> CacheError:
    return CacheError(path, why, made_by(RULES[kind]))


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
        names = [_names(metadata[name]) for name in ("ids", "classes", "credits")]
        found = ImageSet(arrays["images"], arrays["labels"], *names)
    except (KeyError, TypeError) as error:
        raise _unusable(path, "images", f"lacks {error}") from error
    _check_labeled(path, "images", found.images, found.labels, found.ids, len(found.classes))
    _check(path, "images", found.images.dtype == np.uint8, "does not hold 8-bit images")
    return found


def _names(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise TypeError(f"a list of names, found {value!r:.80}")
    return tuple(value)


def _check_labeled(path, kind, images, labels, ids, classes) -> None:
    n = len(ids)
    alike = images.ndim == 4 and labels.ndim == 1 and len(images) == n == len(labels)
    _check(path, kind, alike, "has unequal lengths")
    _check(path, kind, len(set(ids)) == n, "names an image twice")
    _check(path, kind, _inside(labels, classes), f"has labels outside 0 to {classes - 1}")


def _inside(labels: np.ndarray, classes: int) -> bool:
    """Whether all are class numbers, int64."""
    whole = labels.dtype == np.int64
    return whole and (labels.size == 0 or 0 <= labels.min() <= labels.max() < classes)


def _in_range(images: np.ndarray) -> bool:
    """Whether all are float32 in [0, 1]; a comparison with NaN is false."""
    return images.dtype == np.float32 and bool(np.all((images >= 0) & (images <= 1)))


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
            _names(metadata["ids"]),
            dict(metadata["settings"]),
            int(metadata["classes"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _unusable(path, "adversarial", f"lacks {error}") from error

    def check(holds: bool, why: str) -> None:
        _check(path, "adversarial", holds, why)

    _check_labeled(path, "adversarial", chunk.images, chunk.labels, chunk.ids, chunk.classes)
    shapes = {getattr(chunk, name).shape for name in _ARRAYS[1:]}
    check(shapes == {(len(chunk.ids),)}, "has unequal lengths")
    check(_in_range(chunk.images), "holds images that are not float32 in [0, 1]")
    for found in (chunk.clean_prediction, chunk.prediction):
        check(_inside(found, chunk.classes), f"has predictions outside 0 to {chunk.classes - 1}")
    check(chunk.success.dtype == chunk.clipped.dtype == bool, "has flags that are not boolean")
    for found in (chunk.linf, chunk.l2):
        sound = found.dtype == np.float32 and bool(np.all((found >= 0) & np.isfinite(found)))
        check(sound, "has norms that are not float32, finite and ≥ 0")
    return chunk


def write_restored(path: str | Path, images: Mapping[str, np.ndarray], ids: list[str]) -> None:
    """Store restored images (N, C, H, W) float32 per read-out, keys ``"first/iteration"``."""
    write(path, "restored", images, ids=list(ids))


def read_restored(path: str | Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """Restored images per read-out, and their ids. Raises CacheError for anything else."""
    arrays, metadata = read(path, "restored")
    try:
        ids = list(_names(metadata["ids"]))
    except (KeyError, TypeError) as error:
        raise _unusable(path, "restored", f"lacks {error}") from error
    for images in arrays.values():
        alike = images.ndim == 4 and len(images) == len(ids)
        _check(path, "restored", alike, "has unequal lengths")
        sound = _in_range(images)
        _check(path, "restored", sound, "holds images that are not float32 in [0, 1]")
    return arrays, ids


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
        metadata.get("settings") == settings,
        f"holds weights for {metadata.get('settings')}, not for {settings}",
    )
    sound = not any(np.isnan(a).any() for a in arrays.values() if a.dtype.kind == "f")
    _check(path, "weights", sound, "holds weights that are NaN")
    return {name: torch.from_numpy(value) for name, value in arrays.items()}
