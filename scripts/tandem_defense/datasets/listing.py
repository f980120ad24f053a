"""Which pictures a folder has, without opening one: a configuration is checked by it, too.

Needs neither NumPy nor Pillow.
"""

import csv
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from tandem_defense.files.base import FileError
from tandem_defense.seeds import derive_seed

SPLITS = ("test", "train")
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


def pictures(folder: str, labels: str | None) -> list[Picture]:
    """The labeled pictures: of the table `labels`, or in class folders.

    Raises FileError for a folder or table that cannot be used.
    """
    if not Path(folder).is_dir():
        hint = "`folder` is a path from the directory in which snakemake runs, or absolute."
        raise FileError(folder, "is not a folder", hint)
    listed = list(_in_folders(Path(folder)) if labels is None else _in_table(folder, labels))
    if not listed:
        raise FileError(folder, "has no labeled pictures", LAYOUT if labels is None else TABLE)
    return listed


def classes(folder: str, pictures: list[Picture], count: int | None) -> tuple[str, ...]:
    """The classes' names, by class number; `count` if the labels are class numbers themselves.

    Raises ValueError for labels that are numbers where they should be names, and the reverse.
    """
    labels = {picture.label for picture in pictures}
    if count is None:
        if all(label.isascii() and label.isdigit() for label in labels):
            raise ValueError(
                f"{folder}: the labels are numbers, e.g. {min(labels)}; say in `classes`"
                " how many classes there are (1000 for ImageNet), so that they are counted"
                " from 0 and not sorted as names"
            )
        return tuple(sorted(labels))
    names = tuple(map(str, range(count)))
    wrong = sorted(labels - set(names))
    if wrong:
        raise ValueError(
            f"{folder}: found the label {wrong[0]!r}, expected 0 to {count - 1}:"
            " correct it, or leave out `classes` if the labels are names"
        )
    return names


def drawn(
    folder: str, pictures: list[Picture], wanted: dict[str, int], seed: int, count: int | None
) -> tuple[list[Picture], list[Picture]]:
    """The pictures to test on and to train on, `wanted` of each split.

    Raises ValueError for too few of them, or for a class in test that is not in train.
    """
    order = sorted(pictures, key=lambda picture: derive_seed(seed, picture.file))
    if pictures[0].split:
        test, train = ([p for p in order if p.split == split] for split in SPLITS)
        lacking = sorted({p.label for p in test} - {p.label for p in train})
        if wanted["train"] and train and lacking and count is None:
            raise ValueError(
                f"{folder}: {', '.join(lacking)} in test but not in train: a classifier"
                " cannot learn a class without pictures; add some, or remove the class"
            )
    else:
        test, train = order, order[wanted["test"] :]
    for split, there in (("test", test), ("train", train)):
        if len(there) < wanted[split]:
            raise ValueError(
                f"{folder}: found {len(there)} pictures for {split} among"
                f" {len(pictures)}, expected {wanted[split]}: lower `{split}`, or add pictures"
            )
    return test[: wanted["test"]], train[: wanted["train"]]


def _in_folders(folder: Path) -> Iterator[Picture]:
    """The pictures in class folders."""
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


def _in_table(folder: str, labels: str) -> Iterator[Picture]:
    """The pictures of the table."""
    path, seen = Path(folder, labels), set()
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
        if not Path(folder, name).is_file():
            problem = f"names {picture.file!r} in line {line}, which is not there"
            raise FileError(path, problem, TABLE)
        if name in seen:
            raise FileError(path, f"names {picture.file!r} again in line {line}", TABLE)
        seen.add(name)
        yield picture._replace(file=str(name))


def _visible(folder: Path) -> list[Path]:
    """What is in a folder, by name, without the files that systems hide there."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
