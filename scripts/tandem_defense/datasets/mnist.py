"""MNIST from its four original idx files, plain or gzipped."""

import gzip
from pathlib import Path

import numpy as np

from tandem_defense.datasets.base import ImageSet
from tandem_defense.settings import Count

SPLITS = {"train": "train", "test": "t10k"}


class MNIST:
    """60 000 training and 10 000 test digits of 28 × 28 pixels.

    folder : where the idx files are (names as published, with or without ``.gz``)
    test : the first this many test images (FUNN evaluates the first 1000)
    """

    FILES = (
        "train-images-idx3-ubyte",
        "train-labels-idx1-ubyte",
        "t10k-images-idx3-ubyte",
        "t10k-labels-idx1-ubyte",
    )
    AVAILABLE = {"test": 10000}
    SHAPE = (1, 28, 28)

    def __init__(self, *, folder: str, test: Count = 1000):
        self.folder, self.test = Path(folder), test

    def load(self) -> dict[str, ImageSet]:
        """The splits ``train`` and ``test``.

        Raises FileNotFoundError for a missing file, ValueError for one that is not MNIST's.
        """
        splits = {}
        for split, name in SPLITS.items():
            images = self._idx(f"{name}-images-idx3-ubyte", 3)[..., None]
            labels = self._idx(f"{name}-labels-idx1-ubyte", 1).astype(np.int64)
            if len(images) != len(labels):
                raise ValueError(f"MNIST {split}: {len(images)} images but {len(labels)} labels")
            ids = tuple(f"mnist-{split}-{i:05d}" for i in range(len(images)))
            splits[split] = ImageSet(images, labels, ids, tuple("0123456789"))
        return {"train": splits["train"], "test": splits["test"][: self.test]}

    def _idx(self, name: str, dimensions: int) -> np.ndarray:
        """Bytes of an idx file: magic 0x0000 08 d, d big-endian sizes, the data."""
        for path in (self.folder / name, self.folder / f"{name}.gz"):
            if path.is_file():
                data = gzip.decompress(path.read_bytes()) if path.suffix else path.read_bytes()
                break
        else:
            raise FileNotFoundError(f"{self.folder / name} (or .gz) is missing: MNIST's {name}")
        header = 4 + 4 * dimensions
        shape = tuple(np.frombuffer(data[4:header], ">u4"))
        magic = bytes([0, 0, 8, dimensions])
        if data[:4] != magic or len(data) - header != np.prod(shape, dtype=int):
            raise ValueError(f"{path} is not an idx file of {dimensions} dimensions, or truncated")
        return np.frombuffer(data, np.uint8, offset=header).reshape(shape).copy()
