"""MNIST from its four original idx files, plain or gzipped."""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from tandem_defense.datasets.base import Dataset, ImageSet
from tandem_defense.files.base import FileError
from tandem_defense.settings import Count

SPLITS = {"train": "train", "test": "t10k"}
MOST = 60000  # images in a file: more is not read
REMEDY = (
    "Delete it and run the same snakemake command again: rule download brings it. In a folder"
    " of your own, put the published file there."
)


class MNIST(Dataset):
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
    CLASSES = 10

    folder: str
    test: Count = 1000

    def load(self) -> dict[str, ImageSet]:
        """The splits ``train`` and ``test``.

        Raises FileNotFoundError for a missing file, FileError for one that is not MNIST's.
        """
        splits = {}
        for split, name in SPLITS.items():
            _, images = self._idx(f"{name}-images-idx3-ubyte", (28, 28))
            path, labels = self._idx(f"{name}-labels-idx1-ubyte", ())
            if len(images) != len(labels):
                raise FileError(path, f"has {len(labels)} labels for {len(images)} images", REMEDY)
            if len(labels) and labels.max() > 9:
                raise FileError(path, f"has the label {labels.max()}, expected 0 to 9", REMEDY)
            ids = tuple(f"mnist-{split}-{i:05d}" for i in range(len(images)))
            whole = ImageSet(images[..., None], labels.astype(np.int64), ids, tuple("0123456789"))
            splits[split] = whole
        return {"train": splits["train"], "test": splits["test"][: self.test]}

    def _idx(self, name: str, item: tuple[int, ...]) -> tuple[Path, np.ndarray]:
        """An idx file and its bytes (N, *item): magic 0x0000 08 d, d big-endian sizes, data."""
        plain = Path(self.folder, name)
        for path in (plain, plain.with_name(f"{name}.gz")):
            if path.is_file():
                break
        else:
            raise FileNotFoundError(f"{plain} (or .gz) is missing: MNIST's {name}")
        dimensions = 1 + len(item)
        try:
            with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
                magic, numbers = file.read(4), file.read(4 * dimensions)
                sizes = tuple(n for (n,) in struct.iter_unpack(">I", numbers[: len(numbers) & ~3]))
                if magic != bytes([0, 0, 8, dimensions]) or sizes[1:] != item or not sizes:
                    shape = " × ".join(["N", *map(str, item)])
                    raise FileError(path, f"is not an idx file of {shape} bytes", REMEDY)
                if sizes[0] > MOST:
                    raise FileError(path, f"has {sizes[0]} items, expected at most {MOST}", REMEDY)
                length = math.prod(sizes)
                data = file.read(length + 1)  # no more, whatever it unpacks to
        except (OSError, EOFError, zlib.error) as error:
            raise FileError(path, f"is truncated or not gzip ({error})", REMEDY) from error
        if len(data) != length:
            raise FileError(path, "is truncated, or longer than its header says", REMEDY)
        return path, np.frombuffer(data, np.uint8).reshape(sizes).copy()
