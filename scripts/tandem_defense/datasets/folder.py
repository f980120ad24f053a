"""A user's own pictures, of any size and format, in class folders or with a table of labels."""

from collections import Counter
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, ImageOps

from tandem_defense.datasets import listing
from tandem_defense.datasets.base import Dataset, ImageSet
from tandem_defense.datasets.listing import Picture
from tandem_defense.datasets.pictures import opened
from tandem_defense.files.base import FileError
from tandem_defense.settings import Count, Size

# No format that Pillow hands to another program.
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM")


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
    CONDITIONS = {"resize >= size": "raise it, or leave it out"}

    folder: str
    labels: str | None = None
    classes: Count | None = None
    size: Count = 224
    resize: Count | None = None
    color: bool = True
    test: Count
    train: Size = 0
    split_seed: int = 0

    def load(self) -> dict[str, ImageSet]:
        """The splits ``test`` and ``train``; ids are the files' paths without their endings.

        Files that differ in nothing but the ending keep it in their ids. Raises FileError for a
        picture, table or folder that cannot be used, ValueError for too few pictures, for labels
        that do not fit `classes`, and for a class that is in test but not in train.
        """
        pictures = listing.pictures(self.folder, self.labels)
        names = listing.classes(self.folder, pictures, self.classes)
        ids = _ids([picture.file for picture in pictures])
        wanted = {"test": self.test, "train": self.train}
        test, train = listing.drawn(self.folder, pictures, wanted, self.split_seed, self.classes)
        splits = {"test": self._collect(test, names, ids)}
        return splits | {"train": self._collect(train, names, ids) if train else splits["test"]}

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


def _ids(files: list[str]) -> dict[str, str]:
    """The files without their endings, where that is no other file's id."""
    short = {file: str(PurePosixPath(file).with_suffix("")) for file in files}
    taken = Counter([*short.values(), *files])
    return {file: name if taken[name] == 1 else file for file, name in short.items()}
