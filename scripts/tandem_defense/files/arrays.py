"""The container of all arrays between jobs: typed, checksummed, written atomically; never pickles.

Each is a safetensors file whose metadata hold the kind of content, names and settings as JSON and
a SHA-256 of everything. Reading needs no torch.
"""

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from tandem_defense.files.base import FileError, made_by, replacing

# Which rule makes which kind of file: what an error tells the reader to run again.
RULES = {
    "images": "prepare_images",
    "adversarial": "attack",
    "candidates": "attack_defended",
    "restored": "restore",
    "weights": "train_classifier, train_defense or convert_weights",
    "checkpoint": "restore, train_classifier or train_defense",
}


class CacheError(FileError):
    """A file between jobs cannot be used; the message says why and which rule makes it."""


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
        raise unusable(path, kind, f"cannot be read ({error.strerror})") from error
    if not data:
        raise unusable(path, kind, "is empty")
    try:
        arrays = load(data)
        size = int.from_bytes(data[:8], "little")
        digest, content = json.loads(
            json.loads(data[8 : 8 + size])["__metadata__"]["tandem_defense"]
        )
        stored = json.loads(content)
        holds, metadata = stored["kind"], stored["metadata"]
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise unusable(path, kind, f"is truncated or not one of ours ({error})") from error
    if digest != _digest(arrays, content):
        raise unusable(path, kind, "was altered after it was written (its checksum differs)")
    if holds != kind:
        raise unusable(path, kind, f"holds {holds!r}, not {kind!r}")
    check(path, kind, isinstance(metadata, dict), "has no metadata")
    return arrays, metadata


def _digest(arrays: Mapping[str, np.ndarray], content: str) -> str:
    total = sha256(content.encode())
    for name in sorted(arrays):
        total.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        total.update(arrays[name].data)
    return total.hexdigest()


def unusable(path: str | Path, kind: str, why: str) -> CacheError:
    """The error for a file of this kind, with the rule that makes it."""
    return CacheError(path, why, made_by(RULES[kind]))


def check(path: str | Path, kind: str, holds: bool, why: str) -> None:
    """Raise CacheError with `why` unless it holds."""
    if not holds:
        raise unusable(path, kind, why)


def names(value: object) -> tuple[str, ...]:
    """A list of texts from a file's metadata; TypeError for anything else."""
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise TypeError(f"a list of names, found {value!r:.80}")
    return tuple(value)


def check_labeled(path, kind, images, labels, ids, classes) -> None:
    """Raise CacheError unless there is a label and a name of its own for every image."""
    n = len(ids)
    alike = images.ndim == 4 and labels.ndim == 1 and len(images) == n == len(labels)
    check(path, kind, alike, "has unequal lengths")
    check(path, kind, len(set(ids)) == n, "names an image twice")
    check(path, kind, inside(labels, classes), f"has labels outside 0 to {classes - 1}")


def inside(labels: np.ndarray, classes: int) -> bool:
    """Whether all are class numbers, int64."""
    whole = labels.dtype == np.int64
    return whole and (labels.size == 0 or 0 <= labels.min() <= labels.max() < classes)


def in_range(images: np.ndarray) -> bool:
    """Whether all are float32 in [0, 1]; a comparison with NaN is false."""
    return images.dtype == np.float32 and bool(np.all((images >= 0) & (images <= 1)))
