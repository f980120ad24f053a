"""The DEV images of the NIPS 2017 competition on adversarial attacks and defenses."""

import csv
from pathlib import Path

import numpy as np

from tandem_defense.datasets.base import Dataset, ImageSet
from tandem_defense.datasets.pictures import opened
from tandem_defense.extras import extra
from tandem_defense.files.base import FileError
from tandem_defense.settings import Count, Size

with extra("pipeline"):
    from torchvision.models import get_weight

SIDE = 299
COLUMNS = ("ImageId", "TrueLabel", "Author", "OriginalLandingURL", "License")
WEIGHTS = "ResNet50_Weights.IMAGENET1K_V1"  # torchvision names ImageNet's classes with its weights
REMEDY = (
    "Delete it, for an image its whole folder, and run the same snakemake command again: rule"
    " download or download_archive brings it. In a folder of your own, put the published file"
    " there."
)


class NIPS2017(Dataset):
    """1000 photographs of 299 × 299 pixels with ImageNet labels, each CC BY 2.0.

    folder : holds ``images.csv`` (columns ImageId, TrueLabel 1..1000, Author, OriginalLandingURL,
        License) and ``images/``
    test : the first this many images, in the CSV's order, are evaluated
    train : this many images after them train the defenses that need training
    """

    FILES = ("images.csv", "images")
    AVAILABLE = {"test": 1000, "train": 999}
    SHAPE = (3, 299, 299)
    CLASSES = 1000
    CONDITIONS = {"test + train <= 1000": "there are 1000 images, and no other set has them"}

    folder: str
    test: Count = 1000
    train: Size = 0

    def load(self) -> dict[str, ImageSet]:
        """The splits ``test`` and ``train``, disjoint; without train images, train is test's.

        Raises FileNotFoundError for a missing file, FileError for one that is damaged or not what
        was published, ValueError for too few images.
        """
        rows = self._rows(Path(self.folder, "images.csv"))
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
            tuple(get_weight(WEIGHTS).meta["categories"]),
            tuple(self._credit(row) for row in rows),
        )
        test = whole[: self.test]
        return {"test": test, "train": whole[self.test :] if self.train else test}

    @staticmethod
    def _rows(path: Path) -> list[dict[str, str]]:
        try:
            with path.open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
        except (csv.Error, UnicodeDecodeError) as error:
            raise FileError(path, f"is not a table in UTF-8 ({error})", REMEDY) from error
        for line, row in enumerate(rows, 2):
            if any(not row.get(name) for name in COLUMNS):
                raise FileError(path, f"lacks one of {', '.join(COLUMNS)} in line {line}", REMEDY)
            name, label = row["ImageId"], row["TrueLabel"]
            if not (label.isascii() and label.isdigit() and 1 <= int(label[:5]) <= 1000):
                raise FileError(path, f"has the label {label!r}, expected 1 to 1000", REMEDY)
            if Path(name).name != name or "\\" in name or "\0" in name:
                raise FileError(path, f"has the name {name!r}, which leads elsewhere", REMEDY)
        if len({row["ImageId"] for row in rows}) < len(rows):
            raise FileError(path, "names an image twice", REMEDY)
        return rows

    @staticmethod
    def _credit(row: dict) -> str:
        """What the license asks for: author, source, license (CC BY 2.0 for all)."""
        source = row["OriginalLandingURL"].removeprefix("https://www.")
        license = row["License"].removeprefix("https://").removesuffix("/")
        return f"{row['Author']}, {source}, {license}"

    def _read(self, name: str) -> np.ndarray:
        path = Path(self.folder, "images", f"{name}.png")
        with opened(path, ("PNG",), REMEDY) as image:
            if image.size != (SIDE, SIDE):  # before anything is decoded
                raise FileError(path, f"is {image.size}, expected {SIDE} × {SIDE} pixels", REMEDY)
            return np.asarray(image.convert("RGB"))
