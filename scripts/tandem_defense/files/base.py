"""Files that appear whole or not at all, and files that cannot be used."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class FileError(ValueError):
    """A file cannot be used.

    reason : the message without the remedy: the file, what was found, what was expected
    """

    def __init__(self, path: str | Path, problem: str, remedy: str):
        super().__init__(f"{path} {problem}. {remedy}")
        self.reason = f"{path} {problem}"


def made_by(rule: str) -> str:
    """The remedy for a file that a rule of the pipeline writes."""
    return (
        f"Delete it and run the same snakemake command again: rule {rule} makes it, and"
        " nothing else is lost."
    )


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A file to write; it gets the name `path` when the block ends well and all is on disk."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
