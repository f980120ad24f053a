"""resources/downloads.toml: what is downloaded, from where, and what it must be."""

import csv
import tomllib
from hashlib import sha256
from pathlib import Path

CHUNK = 1 << 16
# What a checkpoint of the user's own ends with, which no manifest lists.
OWN_WEIGHTS = (".pth", ".pt", ".ckpt", ".safetensors")


class Unusable(Exception):
    """This source does not have the file; waiting does not help, another source may."""


def read_manifest(path: str | Path) -> dict[str, dict]:
    """The entries of ``resources/downloads.toml`` by name; its head explains the keys."""
    return tomllib.loads(Path(path).read_text(encoding="utf-8"))


def read_members(path: str | Path) -> list[dict]:
    """A list of an archive's files: ``file``, ``sha256`` and ``size`` (bytes) of each."""
    with open(path, newline="", encoding="utf-8") as table:
        return [row | {"size": int(row["size"])} for row in csv.DictReader(table)]


def check(path: str | Path, entry: dict) -> None:
    """Raise Unusable unless size and SHA-256 of a file are those of `entry`, if it has them."""
    size = Path(path).stat().st_size
    if size != entry.get("size", size):
        raise Unusable(f"it has {size} bytes, expected {entry['size']}")
    with open(path, "rb") as file:
        total = sha256()
        while data := file.read(CHUNK):
            total.update(data)
    if not total.hexdigest().startswith(entry["sha256"]):
        raise Unusable(f"its SHA-256 is {total.hexdigest()}, expected {entry['sha256']}")
