"""What ``tandem-defense restore`` is to do: every picture and every output checked beforehand."""

import argparse
import io
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from tandem_defense.cli import pictures
from tandem_defense.cli.pictures import Picture
from tandem_defense.files.base import replacing

STREAM = "-"


@dataclass(frozen=True)
class Job:
    """A picture to restore.

    source, target : paths, or - for standard input and output
    format : of the target
    content : of standard input, which can be read once
    max_size : the picture is made smaller to so many pixels, None: not
    tile, overlap : it is cut into squares of `tile` pixels, None: not
    pieces : how many images that makes, all of the same `shape` (C, H, W)
    """

    source: str
    target: str
    format: str = ""
    content: bytes | None = None
    max_size: int | None = None
    tile: int | None = None
    overlap: int = 0
    pieces: int = 1
    shape: tuple[int, int, int] = (0, 0, 0)

    @property
    def name(self) -> str:
        """What messages call the picture."""
        return self.source if self.content is None else "standard input"

    def read(self) -> Picture:
        """The picture, no larger than `max_size`; ValueError where it cannot be used."""
        file = Path(self.source) if self.content is None else io.BytesIO(self.content)
        picture = pictures.read(file, self.name)
        if self.max_size and max(picture.pixels.shape) > self.max_size:
            from tandem_defense.cli.resizing import shrunk  # needs PyTorch, which takes seconds

            picture = shrunk(picture, self.max_size)
        return picture

    def write(self, picture: Picture) -> None:
        """Write all of the target, or nothing; OSError where that fails."""
        content, _ = pictures.encode(picture, self.format)
        if self.target == STREAM:
            sys.stdout.buffer.write(content)
            sys.stdout.buffer.flush()
            return
        with replacing(Path(self.target).resolve()) as part:
            part.write_bytes(content)


def plan(options: argparse.Namespace) -> list[Job]:
    """A job per picture, checked; folders for the output are made.

    Raises ValueError where a picture cannot be read or an output cannot be written, and says
    on standard error what an output will not keep.
    """
    if options.tile and 2 * options.overlap > options.tile:
        raise ValueError(
            f"--overlap: found {options.overlap}, expected at most half of --tile {options.tile}"
        )
    sources = [pair for text in options.pictures for pair in _sources(text, options.output)]
    jobs = []
    for (source, _), target in zip(sources, _targets(sources, options), strict=True):
        if options.skip_existing and target != STREAM and Path(target).exists():
            print(f"{target} is there already", file=sys.stderr)
            continue
        content = sys.stdin.buffer.read() if source == STREAM else None
        format = pictures.ENDINGS.get(Path(target).suffix.lower(), "")  # none: as the source
        parts = {"max_size": options.max_size, "tile": options.tile}
        parts["overlap"] = options.overlap if options.tile else 0
        jobs.append(_checked(Job(source, target, format, content, **parts)))
    for folder in sorted({Path(job.target).parent for job in jobs if job.target != STREAM}):
        check_folder(folder)
    return jobs


def _sources(text: str, output: str) -> list[tuple[str, Path]]:
    """(source, its name below the output folder) of everything that an argument names.

    An output folder inside the folder is none of it: what was restored is not restored again.
    """
    if text == STREAM:
        return [(STREAM, Path("standard-input.png"))]
    folder = Path(text)
    if not folder.is_dir():
        return [(text, Path(folder.name))]
    files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in pictures.READABLE)
    inside = Path(output).resolve()
    if output != STREAM and inside != folder.resolve():
        files = [file for file in files if not file.resolve().is_relative_to(inside)]
    if not files:
        raise ValueError(f"{text} holds no picture; expected {', '.join(pictures.READABLE)}")
    return [(str(file), file.relative_to(folder)) for file in files]


def _targets(sources: list[tuple[str, Path]], options: argparse.Namespace) -> list[str]:
    """Where each source goes: into the output folder, or, one alone, to the output."""
    text, output = options.output, Path(options.output)
    folder = text != STREAM and (
        output.is_dir() or text.endswith(("/", os.sep)) or any(map(_is_folder, options.pictures))
    )
    if folder or len(sources) > 1:
        named = not folder and output.suffix.lower() in pictures.ENDINGS
        if text == STREAM or named or (output.exists() and not output.is_dir()):
            raise ValueError(f"{len(sources)} pictures need a folder, found -o {text}")
        targets = [str(output / _writable(name)) for _, name in sources]
        for target in targets:
            if targets.count(target) > 1:
                raise ValueError(f"{target} would be the output of several pictures: rename them")
        for target in targets:
            Path(target).parent.mkdir(parents=True, exist_ok=True)
        return targets
    if text == STREAM and sys.stdout.isatty():
        raise ValueError("standard output is a terminal: redirect it, or give -o a file")
    if output.exists() and not output.is_file() and text != STREAM:
        raise ValueError(f"{output} is not a regular file")
    if text != STREAM and output.suffix.lower() not in pictures.ENDINGS:
        known = ", ".join(pictures.ENDINGS)
        raise ValueError(f"{output}: this ending cannot be written; expected one of {known}")
    return [text]


def _is_folder(text: str) -> bool:
    return text != STREAM and Path(text).is_dir()


def _writable(name: Path) -> Path:
    """A name with an ending that can be written: its own, or .png."""
    return name if name.suffix.lower() in pictures.ENDINGS else name.with_suffix(".png")


def _checked(job: Job) -> Job:
    """The job with its format and pieces.

    The picture is encoded as it is: what the format cannot hold is seen before hours are spent.
    """
    from tandem_defense.restoration.tiles import starts

    picture = job.read()
    format = job.format or (picture.format if picture.format in pictures.METADATA else "PNG")
    try:
        _, lost = pictures.encode(picture, format)
    except ValueError as error:
        raise ValueError(f"{job.name}: {error}") from error
    for words in (*picture.lost, *lost):
        print(f"{job.name}: {words}", file=sys.stderr)
    height, width, channels = picture.pixels.shape
    tile = job.tile or max(height, width)
    pieces = len(starts(height, tile, job.overlap)) * len(starts(width, tile, job.overlap))
    shape = (channels, min(tile, height), min(tile, width))
    return replace(job, format=format, pieces=pieces, shape=shape)


def check_folder(folder: Path) -> None:
    """Raise ValueError unless files can be written into it."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder")
    probe = folder / f".tandem-defense.{os.getpid()}"
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(f"nothing can be written into {folder}: {error.strerror}") from None
