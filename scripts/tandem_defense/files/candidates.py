"""The adversarial cache of threats: a chunk of candidates at every ε, and how the attack went."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tandem_defense.files.arrays import check, check_labeled, in_range, names, read, unusable, write


@dataclass(frozen=True)
class CandidateSet:
    """A threat's candidates for N images at E bounds.

    images : (E, N, C, H, W) float32 in [0, 1]
    labels : (N,) int64
    linf, l2 : (E, N) float32, realized norms of the perturbation
    deceived, zero_gradient, no_gradient, silent, incomplete : (E, N) bool, see
        :class:`threats.base.Candidates`
    ids : N names; epsilons : E bounds, 0 where the attack has none
    attack : the attack's name; settings : threat, attack, seed; classes : number of classes
    """

    images: np.ndarray
    labels: np.ndarray
    linf: np.ndarray
    l2: np.ndarray
    deceived: np.ndarray
    zero_gradient: np.ndarray
    no_gradient: np.ndarray
    silent: np.ndarray
    incomplete: np.ndarray
    ids: tuple[str, ...]
    epsilons: tuple[float, ...]
    attack: str
    settings: dict
    classes: int


FLAGS = ("deceived", "zero_gradient", "no_gradient", "silent", "incomplete")
_ARRAYS = ("images", "labels", "linf", "l2", *FLAGS)


def write_candidates(path: str | Path, chunk: CandidateSet) -> None:
    """Store one chunk of candidates."""
    texts = {name: getattr(chunk, name) for name in ("ids", "epsilons", "attack", "settings")}
    arrays = {name: getattr(chunk, name) for name in _ARRAYS}
    write(path, "candidates", arrays, **texts, classes=chunk.classes)


def read_candidates(path: str | Path) -> CandidateSet:
    """One chunk of candidates. Raises CacheError for anything else, NaN included."""
    arrays, metadata = read(path, "candidates")
    try:
        chunk = CandidateSet(
            *(arrays[name] for name in _ARRAYS),
            names(metadata["ids"]),
            tuple(map(float, metadata["epsilons"])),
            str(metadata["attack"]),
            dict(metadata["settings"]),
            int(metadata["classes"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise unusable(path, "candidates", f"lacks {error}") from error

    def demand(holds: bool, why: str) -> None:
        check(path, "candidates", holds, why)

    demand(chunk.images.ndim == 5 and len(chunk.images) > 0, "has no images at any bound")
    for images in chunk.images:
        check_labeled(path, "candidates", images, chunk.labels, chunk.ids, chunk.classes)
    demand(in_range(chunk.images), "holds images that are not float32 in [0, 1]")
    shape = (len(chunk.epsilons), len(chunk.ids))
    demand(all(getattr(chunk, n).shape == shape for n in _ARRAYS[2:]), "has unequal lengths")
    for values in (chunk.linf, chunk.l2):
        sound = values.dtype == np.float32 and bool(np.all((values >= 0) & np.isfinite(values)))
        demand(sound, "has norms that are not float32, finite and ≥ 0")
    demand(all(getattr(chunk, n).dtype == bool for n in FLAGS), "has flags that are not boolean")
    return chunk
