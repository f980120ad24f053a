"""A dataset's split on disk: 8-bit images, labels, ids."""

from pathlib import Path

import numpy as np

from tandem_defense.datasets.base import ImageSet
from tandem_defense.files.arrays import check, check_labeled, names, read, unusable, write


def write_images(path: str | Path, images: ImageSet) -> None:
    """Store one split of a dataset, 8 bits per channel."""
    texts = {"ids": images.ids, "classes": images.classes, "credits": images.credits}
    write(path, "images", {"images": images.images, "labels": images.labels}, **texts)


def read_images(path: str | Path) -> ImageSet:
    """One split of a dataset. Raises CacheError for anything else."""
    arrays, metadata = read(path, "images")
    try:
        texts = [names(metadata[name]) for name in ("ids", "classes", "credits")]
        split = ImageSet(arrays["images"], arrays["labels"], *texts)
    except (KeyError, TypeError) as error:
        raise unusable(path, "images", f"lacks {error}") from error
    check_labeled(path, "images", split.images, split.labels, split.ids, len(split.classes))
    check(path, "images", split.images.dtype == np.uint8, "does not hold 8-bit images")
    return split
