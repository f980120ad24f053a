"""Fetching the papers' datasets; nothing is trusted before its checksum is right."""

import csv
import shutil
import tempfile
from hashlib import sha256
from pathlib import Path

COMMIT = "ae67d1be"
ARCHIVE = f"https://github.com/ZhengyuZhao/Targeted-Tansfer/archive/{COMMIT}.zip"


def mnist(folder: Path) -> None:
    """Put MNIST's four gzipped idx files into `folder` (torchvision's mirrors and checksums)."""
    from torchvision.datasets import MNIST

    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        MNIST(temporary, download=True)
        for file in Path(temporary, "MNIST", "raw").glob("*.gz"):
            shutil.move(file, folder / file.name)


def nips2017(folder: Path, manifest: str) -> None:
    """Put ``images.csv`` and ``images/*.png`` of the DEV set into `folder`.

    manifest : CSV with columns image_id, sha256, bytes of all 1000 images

    Raises ValueError that names the first file that is missing or differs.
    """
    from torchvision.datasets.utils import download_and_extract_archive

    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        download_and_extract_archive(ARCHIVE, temporary, remove_finished=True)
        (found,) = Path(temporary).glob("*/dataset")
        check(found / "images", manifest)
        shutil.rmtree(folder / "images", ignore_errors=True)
        shutil.move(found / "images", folder / "images")
        shutil.move(found / "images.csv", folder / "images.csv")


def check(images: Path, manifest: str) -> None:
    """Compare every image with the manifest; ValueError names the first that differs."""
    with open(manifest, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            path = images / f"{row['image_id']}.png"
            if not path.is_file():
                raise ValueError(f"{path} is missing: delete {images.parent} and download again")
            if sha256(path.read_bytes()).hexdigest() != row["sha256"]:
                raise ValueError(f"{path} differs from the manifest: delete it and download again")
