"""A user's own pictures, of any size and format, in class folders or with a table of labels."""

import csv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from tandem_defense.datasets.base import Dataset, ImageSet
from tandem_defense.datasets.pictures import opened
from tandem_defense.files.base import FileError
from tandem_defense.seeds import derive_seed
from tandem_defense.settings import Count, Size

SPLITS = ("test", "train")
# No format that Pillow hands to another program.
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM")
ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".pgm")
LAYOUT = "Expected are folder/<class>/<picture>, or folder/train/<class>/... and folder/test/..."
TABLE = (
    "Correct the table: columns `file` (relative to the folder, with /), `label` and, if it splits"
    " the pictures, `split` (train or test); one line per picture."
)


class Picture(NamedTuple):
    """One file, relative to the folder, with its label and, where that is stated, its split."""

    file: str
    label: str
    split: str | None


class Folder(Dataset):
    """Pictures in class folders, ``folder/<class>/*.jpg``, or listed in a table of labels.

    Every picture becomes square as in torchvision's evaluation of ImageNet classifiers: the shorter
    side is resized to `resize` pixels (bilinear, antialiased; Pillow's, equal to the last bit) and
    the center cropped to `size` × `size`. Most of torchvision's weights were evaluated with
    bilinear resizing, none suffers from it.

    Before that the picture is turned as its EXIF orientation says, transparency is put on white,
    and colors become RGB, or gray where `color` is false. Color profiles are ignored; of several
    frames the first counts; of 16-bit color the high byte. Gray of more than 8 bits is refused: its
    range is not known.

    The splits are ``folder/train`` and ``folder/test`` where both exist, with the class folders
    inside, or the table's column ``split``; otherwise one shuffle decides. Either way `split_seed`
    decides which pictures of a split are taken, whatever their classes and a table's order.

    Classes are numbered in the order of their names. That is a classifier's own numbering only if
    all its classes are there (ImageNet's 1000 ``n01440764``...); for some of them give a table of
    class numbers and `classes`.

    Snakemake does not watch the folder (``FILES`` is empty): after a change of the pictures run it
    once with ``--forcerun prepare_images``.

    folder : the pictures' folder
    labels : a CSV table in UTF-8, its path relative to `folder`, with the columns ``file``,
        ``label`` and optionally ``split``; without it the class folders say the labels
    classes : the labels are class numbers from 0 to `classes` - 1 instead of names
    size : side of the square images, pixels
    resize : length of the shorter side before cropping, pixels, at least `size`; without it
        `size` / 0.875, rounded: 256 for 224
    color : RGB (C = 3) instead of gray (C = 1)
    test, train : number of images of each split; without train images, train is test's
    split_seed : chooses the images of each split
    """

    FILES = ()
    SHAPE = (3, 224, 224)

    folder: str
    labels: str | None = None
    classes: Count | None = None
    size: Count = 224
    resize: Count | None = None
    color: bool = True
    test: Count
    train: Size = 0
    split_seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resize is not None and self.resize < self.size:
            raise ValueError(
                f"Folder: resize: found {self.resize}, allowed is at least size, {self.size}:"
                " raise it, or leave it out"
            )

    def load(self) -> dict[str, ImageSet]:
        """The splits ``test`` and ``train``; ids are the files' paths without their endings.

        Files that differ in nothing but the ending keep it in their ids. Raises FileError for a
        picture, table or folder that cannot be used, ValueError for too few pictures, for labels
        that do not fit `classes`, and for a class that is in test but not in train.
        """
        pictures = self.pictures()
        names, ids = self._names(pictures), _ids([picture.file for picture in pictures])
        test, train = self._drawn(pictures)
        splits = {"test": self._collect(test, names, ids)}
        return splits | {"train": self._collect(train, names, ids) if train else splits["test"]}

    def pictures(self) -> list[Picture]:
        """All pictures with their labels, none of them opened; FileError as :meth:`load`."""
        if not Path(self.folder).is_dir():
            hint = "`folder` is a path from the working directory, or absolute."
            raise FileError(self.folder, "is not a folder", hint)
        pictures = list(self._listed() if self.labels is None else self._tabulated())
        if not pictures:
            raise FileError(
                self.folder, "has no labeled pictures", LAYOUT if self.labels is None else TABLE
            )
        return pictures

    def _listed(self) -> Iterator[Picture]:
        """The pictures in class folders."""
        folder = Path(self.folder)
        split = all((folder / name).is_dir() for name in SPLITS)
        for name in SPLITS if split else (None,):
            for directory in filter(Path.is_dir, _visible(folder / (name or ""))):
                files = _visible(directory)
                if any(file.is_dir() for file in files):
                    raise FileError(directory, "has folders in it", LAYOUT)
                files = [file for file in files if file.suffix.lower() in ENDINGS]
                if not files:
                    known = ", ".join(ENDINGS)
                    problem = f"has no picture, expected files that end in {known}"
                    raise FileError(directory, problem, "Convert its pictures, or delete it.")
                for file in files:
                    yield Picture(file.relative_to(folder).as_posix(), directory.name, name)

    def _tabulated(self) -> Iterator[Picture]:
        """The pictures of the table."""
        path, seen = Path(self.folder, self.labels), set()
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                reader = csv.DictReader(file)
                columns = reader.fieldnames or ()
                rows = [(reader.line_num, row) for row in reader]
        except OSError as error:
            hint = "`labels` is the table's path relative to `folder`."
            raise FileError(path, f"cannot be read ({error.strerror})", hint) from error
        except (csv.Error, UnicodeDecodeError) as error:
            raise FileError(path, f"is not a table in UTF-8 ({error})", TABLE) from error
        if not {"file", "label"} <= set(columns):
            problem = f"has the columns {', '.join(columns) or 'none'}, expected file and label"
            raise FileError(path, problem, TABLE)
        for line, row in rows:
            values = {key: (row[key] or "").strip() for key in columns if key in Picture._fields}
            picture = Picture(**{"split": None} | values)
            for key, value in values.items():
                if not value:
                    raise FileError(path, f"has no {key} in line {line}", TABLE)
            if picture.split not in (None, *SPLITS):
                problem = f"has the split {picture.split!r} in line {line}, expected train or test"
                raise FileError(path, problem, TABLE)
            name = PurePosixPath(picture.file)
            if name.is_absolute() or ".." in name.parts or {"\\", "\0"} & set(picture.file):
                problem = f"names {picture.file!r} in line {line}, which leads out of the folder"
                raise FileError(path, problem, TABLE)
            if not Path(self.folder, name).is_file():
                problem = f"names {picture.file!r} in line {line}, which is not there"
                raise FileError(path, problem, TABLE)
            if name in seen:
                raise FileError(path, f"names {picture.file!r} again in line {line}", TABLE)
            seen.add(name)
            yield picture._replace(file=str(name))

    def _names(self, pictures: list[Picture]) -> tuple[str, ...]:
        """The classes' names, by class number."""
        labels = {picture.label for picture in pictures}
        if self.classes is None:
            if all(label.isascii() and label.isdigit() for label in labels):
                raise ValueError(
                    f"{self.folder}: the labels are numbers, e.g. {min(labels)}; say in `classes`"
                    " how many classes there are (1000 for ImageNet), so that they are counted"
                    " from 0 and not sorted as names"
                )
            return tuple(sorted(labels))
        names = tuple(map(str, range(self.classes)))
        wrong = sorted(labels - set(names))
        if wrong:
            raise ValueError(
                f"{self.folder}: found the label {wrong[0]!r}, expected 0 to {self.classes - 1}:"
                " correct it, or leave out `classes` if the labels are names"
            )
        return names

    def _drawn(self, pictures: list[Picture]) -> tuple[list[Picture], list[Picture]]:
        """The pictures to test on and to train on."""
        order = sorted(pictures, key=lambda picture: derive_seed(self.split_seed, picture.file))
        if pictures[0].split:
            test, train = ([p for p in order if p.split == split] for split in SPLITS)
            lacking = sorted({p.label for p in test} - {p.label for p in train})
            if train and lacking and self.classes is None:
                raise ValueError(
                    f"{self.folder}: {', '.join(lacking)} in test but not in train: a classifier"
                    " cannot learn a class without pictures; add some, or remove the class"
                )
        else:
            test, train = order, order[self.test :]
        for split, there, wanted in (("test", test, self.test), ("train", train, self.train)):
            if len(there) < wanted:
                raise ValueError(
                    f"{self.folder}: found {len(there)} pictures for {split} among"
                    f" {len(pictures)}, expected {wanted}: lower `{split}`, or add pictures"
                )
        return test[: self.test], train[: self.train]

    def _collect(
        self, pictures: list[Picture], names: tuple[str, ...], ids: dict[str, str]
    ) -> ImageSet:
        images = np.empty((len(pictures), self.size, self.size, 3 if self.color else 1), np.uint8)
        for image, picture in zip(images, pictures, strict=True):
            image[:] = self._read(Path(self.folder, picture.file)).reshape(image.shape)
        labels = np.array([names.index(picture.label) for picture in pictures], np.int64)
        return ImageSet(images, labels, tuple(ids[picture.file] for picture in pictures), names)

    def _read(self, path: Path) -> np.ndarray:
        """A picture's center, (size, size, 3) or (size, size), uint8."""
        with opened(path, FORMATS, "Replace it, or delete it and its line in a table.") as image:
            if image.mode[0] in "IF":
                problem = f"has gray values of more than 8 bits (Pillow's mode {image.mode})"
                raise FileError(path, problem, "Scale them to 8 bits and save it again.")
            image = ImageOps.exif_transpose(image)
            if image.has_transparency_data:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            image = image.convert("RGB" if self.color else "L")
        shorter = self.resize or round(self.size / 0.875)
        width, height = (int(shorter * n / min(image.size)) for n in image.size)
        left, top = (round((n - self.size) / 2) for n in (width, height))
        image = image.resize((width, height), Image.Resampling.BILINEAR)
        return np.asarray(image.crop((left, top, left + self.size, top + self.size)))


def _visible(folder: Path) -> list[Path]:
    """What is in a folder, by name, without the files that systems hide there."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _ids(files: list[str]) -> dict[str, str]:
    """The files without their endings, where that is no other file's id."""
    short = {file: str(PurePosixPath(file).with_suffix("")) for file in files}
    taken = Counter([*short.values(), *files])
    return {file: name if taken[name] == 1 else file for file, name in short.items()}
