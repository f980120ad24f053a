"""Small contents of the files between jobs."""

import numpy as np

from tandem_defense.datasets.base import ImageSet
from tandem_defense.files.adversarial import AdversarialSet


def image_set(n=3) -> ImageSet:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (n, 4, 5, 3), np.uint8)
    return ImageSet(images, np.arange(n) % 2, tuple("abcdefgh"[:n]), ("x", "y"), ("",) * n)


def adversarial(n=3, **changes) -> AdversarialSet:
    rng = np.random.default_rng(1)
    fields = {
        "images": rng.random((n, 3, 4, 5), np.float32),
        "labels": np.arange(n) % 2,
        "clean_prediction": np.arange(n) % 2,
        "prediction": np.ones(n, np.int64),
        "success": np.ones(n, bool),
        "clipped": np.zeros(n, bool),
        "linf": np.full(n, 0.1, np.float32),
        "l2": np.full(n, 1.0, np.float32),
        "ids": tuple("abcdefgh"[:n]),
        "settings": {"kind": "bim", "epsilon": 8 / 255, "seed": 0},
        "classes": 2,
    }
    return AdversarialSet(**fields | changes)
