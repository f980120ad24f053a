"""The DEV images of the NIPS 2017 competition on adversarial attacks and defenses."""

import csv
from pathlib import Path

import numpy as np
from PIL import Image

from tandem_defense.datasets.base import ImageSet
from tandem_defense.settings import Count, Size

SIDE = 299


class NIPS2017:
    """1000 photographs of 299 × 299 pixels with ImageNet labels, each CC BY 2.0.

    folder : holds ``images.csv`` (columns ImageId, TrueLabel 1..1000, Author, OriginalLandingURL,
        License) and ``images/``
    test : the first this many images, in the CSV's order, are evaluated
    train : this many images after them train the defenses that need training
    """

    FILES = ("images.csv", "images")
    AVAILABLE = {"test": 1000, "train": 999}
    SHAPE = (3, 299, 299)

    def __init__(self, *, folder: str, test: Count = 1000, train: Size = 0):
        self.folder, self.test, self.train = Path(folder), test, train

    def load(self) -> dict[str, ImageSet]:
        """The splits ``test`` and ``train``, disjoint; without train images, train is test's.

        Raises FileNotFoundError for a missing file, ValueError for too few or odd images.
        """
        with (self.folder / "images.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        if self.test + self.train > len(rows):
            raise ValueError(
                f"{self.folder}/images.csv lists {len(rows)} images; test: {self.test} and"
                f" train: {self.train} ask for {self.test + self.train}"
            )
        rows = rows[: self.test + self.train]
        whole = ImageSet(
            np.stack([self._read(row["ImageId"]) for row in rows]),
            np.array([int(row["TrueLabel"]) - 1 for row in rows], np.int64),
            tuple(row["ImageId"] for row in rows),
            tuple(str(i) for i in range(1000)),
            tuple(self._credit(row) for row in rows),
        )
        test = whole[: self.test]
        return {"test": test, "train": whole[self.test :] if self.train else test}

    @staticmethod
    def _credit(row: dict) -> str:
        """What the license asks for: author, source, license (CC BY 2.0 for all)."""
        source = row["OriginalLandingURL"].removeprefix("https://www.")
        license = row["License"].removeprefix("https://").removesuffix("/")
        return f"{row['Author']}, {source}, {license}"

    def _read(self, name: str) -> np.ndarray:
        path = self.folder / "images" / f"{name}.png"
        with Image.open(path) as image:
            if image.size != (SIDE, SIDE):
                raise ValueError(f"{path} is {image.size}, expected {SIDE} × {SIDE} pixels")
            return np.asarray(image.convert("RGB"))
