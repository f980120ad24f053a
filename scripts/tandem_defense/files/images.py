"""A dataset's split on disk: 8-bit images, labels, ids."""

from collections import Counter
from pathlib import Path

import numpy as np

from tandem_defense.datasets.base import ImageSet
from tandem_defense.files.arrays import check, check_labeled, inside, names, read, unusable, write


def write_images(path: str | Path, images: ImageSet) -> None:
    """Store one split of a dataset, 8 bits per channel. Raises ValueError for what is no split."""
    pixels, labels, count, classes = images.images, images.labels, len(images), len(images.classes)
    if pixels.ndim != 4 or pixels.dtype != np.uint8 or len(pixels) != count:
        found = f"{pixels.dtype} {pixels.shape}"
        raise ValueError(f"the dataset's images are {found}, expected uint8 ({count}, H, W, C)")
    if labels.shape != (count,) or labels.dtype != np.int64:
        found = f"{labels.dtype} {labels.shape}"
        raise ValueError(f"the dataset's labels are {found}, expected int64 ({count},)")
    if not inside(labels, classes):
        raise ValueError(
            f"the dataset's labels range from {labels.min()} to {labels.max()}, expected 0 to"
            f" {classes - 1}: it has {classes} classes"
        )
    if twice := [name for name, times in Counter(images.ids).items() if times > 1][:3]:
        raise ValueError(f"the dataset has several images of the ids {', '.join(twice)}")
    texts = {"ids": images.ids, "classes": images.classes, "credits": images.credits}
    write(path, "images", {"images": pixels, "labels": labels}, **texts)


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
