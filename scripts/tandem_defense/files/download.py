"""Fetching what the project does not ship; nothing gets its name before its checksum is right.

The standard library's HTTP client with what it lacks: going on where a broken transfer ended,
patience, mirrors. What has arrived lies beside the destination as ``.<name>.part``, also after
an error, and the next call goes on from there.
"""

import errno
import gzip
import http.client
import itertools
import logging
import math
import os
import re
import shutil
import ssl
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from tandem_defense.files.manifest import CHUNK, Unusable, check

log = logging.getLogger(__name__)

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
ENDINGS = {"gzip": ".gz", "zip": ".zip"}


class DownloadError(Exception):
    """Nothing usable was found; the message says what every source had and how to go on."""


class Interrupted(Exception):
    """This source did not deliver all of the file; asking again may help."""


@dataclass(frozen=True)
class Patience:
    """How long to hope.

    timeout : seconds without a byte after which a connection counts as broken
    attempts : that bring nothing new, one after another, before a source is given up
    backoff : seconds before the second attempt, doubled for each further one
    report : seconds between two lines about progress
    """

    timeout: float = 60.0
    attempts: int = 5
    backoff: float = 1.0
    report: float = 10.0


def get(
    name: str,
    entry: dict,
    destination: str | Path,
    *,
    members: list[dict] | None = None,
    offline: str | Path | None = None,
    patience: Patience = Patience(),
) -> None:
    """Bring an entry of the manifest to `destination`, a file, or for an archive a folder.

    members : the files of an archive (:func:`read_members`)
    offline : a folder that holds `name`, unpacked or as its URL serves it; no URL is asked then

    Whatever was at `destination` stays until the new one is complete and checked.
    Raises DownloadError if no source has the right content, or the disk is full.
    """
    destination = Path(destination)
    destination.parent.mkdir(parents=True, exist_ok=True)
    kind = "zip" if members is not None else entry.get("unpack", "plain")

    def install(arrived: Path, kind: str) -> None:
        with _temporary(destination) as new:
            if kind == "zip":
                _extract(arrived, new, entry["folder"], members)
            elif members is not None:
                _copy_members(arrived, new, members)
            else:
                with (gzip.open if kind == "gzip" else open)(arrived, "rb") as source:
                    _copy(source, new, entry)
            _replace(new, destination)

    with _room_for(name, destination.parent):
        if offline:
            _from_folder(name, Path(offline), kind, install)
        else:
            _from_urls(name, entry, kind, _hidden(destination, "part"), install, patience)
    log.info("%s is complete, its checksum is right", name)


def _hidden(path: Path, purpose: str) -> Path:
    return path.with_name(f".{path.name}.{purpose}")


@contextmanager
def _temporary(destination: Path) -> Iterator[Path]:
    """A path beside `destination`; what is there afterwards is removed."""
    new = _hidden(destination, "new")
    _remove(new)
    try:
        yield new
    finally:
        _remove(new)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _replace(new: Path, destination: Path) -> None:
    if new.is_dir():
        _remove(destination)  # a folder cannot be replaced at once
    os.replace(new, destination)


@contextmanager
def _room_for(name: str, folder: Path) -> Iterator[None]:
    """Explain a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        free = shutil.disk_usage(folder).free
        raise DownloadError(
            f"{name}: there is no room left in {folder} ({error.strerror}; {_mb(free)} are free)."
            " Make room and run the same command again: it goes on with what has arrived."
        ) from error


# From a folder


def _from_folder(name: str, folder: Path, kind: str, install: Callable) -> None:
    candidates = {folder / name: "plain"}
    if kind in ENDINGS:
        candidates[folder / (name + ENDINGS[kind])] = kind
    for path, arrived in candidates.items():
        if path.exists():
            try:
                return install(path, arrived)
            except Unusable as error:
                raise DownloadError(
                    f"{path} is not {name}: {error}. Replace it by a right copy, or remove the key"
                    " `offline` from the configuration to download it."
                ) from None
    raise DownloadError(
        f"{name} is not in the folder of the key `offline`: put it at"
        f" {' or '.join(map(str, candidates))}, or remove the key to download it."
    )


def _copy(source: BinaryIO, destination: Path, entry: dict) -> None:
    """Write what `source` holds, to the disk for sure, and compare it with `entry`."""
    left = entry.get("size", math.inf) + 1  # a small archive may unpack to more than the disk has
    try:
        with destination.open("wb") as file:
            while data := source.read(min(CHUNK, left)):
                file.write(data)
                left -= len(data)
                if left <= 0:
                    raise Unusable(f"it has more than the expected {entry['size']} bytes")
            file.flush()
            os.fsync(file.fileno())
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise Unusable(f"it cannot be unpacked ({error})") from error
    check(destination, entry)


def _copy_members(source: Path, destination: Path, members: list[dict]) -> None:
    destination.mkdir()
    for member in members:
        path = source / member["file"]
        if not path.is_file():
            raise Unusable(f"it lacks {member['file']}")
        with path.open("rb") as file, _naming(member):
            _copy(file, destination / member["file"], member)


@contextmanager
def _naming(member: dict) -> Iterator[None]:
    try:
        yield
    except Unusable as error:
        raise Unusable(f"{member['file']} in it is wrong: {error}") from error


def _extract(archive: Path, destination: Path, folder: str, members: list[dict]) -> None:
    """Take `members` out of the archive's `folder`; their names are ours, never the archive's."""
    destination.mkdir()
    try:
        with zipfile.ZipFile(archive) as packed:
            inside = {}
            for name in packed.namelist():
                parts = PurePosixPath(name.replace("\\", "/")).parts
                if not parts or ".." in parts or parts[0] == "/" or ":" in parts[0]:
                    raise Unusable(f"the archive has the path {name!r}, which leads out of it")
                inside["/".join(parts[1:])] = name
            for member in members:
                name = inside.get(f"{folder}/{member['file']}")
                if name is None:
                    raise Unusable(f"the archive lacks {folder}/{member['file']}")
                with packed.open(name) as file, _naming(member):
                    _copy(file, destination / member["file"], member)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # a place before the start
            raise
        raise Unusable(f"it is not a zip archive that can be read ({error})") from error


# From the network


def _from_urls(
    name: str, entry: dict, kind: str, part: Path, install: Callable, patience: Patience
) -> None:
    size = entry.get("size") if kind == "plain" else None
    reasons = []
    for url in entry["urls"]:
        log.info("%s from %s", name, url)
        try:
            return _from_url(name, url, size, kind, part, install, patience)
        except (Unusable, Interrupted) as error:
            log.warning("%s: %s: %s", name, url, error)
            reasons.append(f"  {url}: {error}")
    kept = f" {_mb(part.stat().st_size)} have arrived and are kept." if part.exists() else ""
    raise DownloadError(
        f"{name} cannot be downloaded:\n" + "\n".join(reasons) + f"\nRun the same command again"
        f" later, or put a copy into a folder and name it under the key `offline`.{kept}"
    )


def _from_url(
    name: str,
    url: str,
    size: int | None,
    kind: str,
    part: Path,
    install: Callable,
    patience: Patience,
) -> None:
    resumed = part.exists()
    _transfer(name, url, part, size, patience)
    try:
        install(part, kind)
    except Unusable as error:
        part.unlink()
        if not resumed:
            raise
        # The earlier piece may have been another source's, or of another day.
        log.info("%s: %s; once more from the start", name, error)
        return _from_url(name, url, size, kind, part, install, patience)
    part.unlink()


def _transfer(name: str, url: str, part: Path, size: int | None, patience: Patience) -> None:
    """Complete `part` from `url`. Raises Unusable, or Interrupted when patience is at its end."""
    failures = 0
    while True:
        before = _size(part)
        try:
            return _attempt(name, url, part, size, patience)
        except Interrupted as error:
            # A slow or shaky line that brings something each time gets through.
            failures = 1 if _size(part) > before else failures + 1
            if failures >= patience.attempts:
                raise Interrupted(f"{error}, {failures} times without progress") from error
            wait = patience.backoff * 2 ** (failures - 1)
            log.info("%s: %s; next attempt in %g s", name, error, wait)
            time.sleep(wait)


def _attempt(name: str, url: str, part: Path, size: int | None, patience: Patience) -> None:
    """One request for what `part` lacks."""
    if size is not None and _size(part) > size:
        part.unlink()  # a piece of something else
    have = _size(part)
    headers = {"User-Agent": "tandem-defense"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=patience.timeout
        )
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416:  # nothing follows: complete, or longer than the file is
                if error.headers.get("Content-Range", "").endswith(f"/{have}"):
                    return
                if size is None:
                    part.unlink()
                    raise Interrupted("the server has less than what had arrived") from error
                raise Unusable("the server has less than what had arrived") from error
            reason = f"the server answers {error.code} {error.reason}"
            again = error.code in (408, 425, 429) or error.code >= 500
            raise (Interrupted if again else Unusable)(reason) from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        kind = Unusable if isinstance(reason, ssl.SSLCertVerificationError) else Interrupted
        raise kind(f"no connection ({reason})") from error
    with response:
        if response.headers.get_content_type() == "text/html":
            raise Unusable("the server answers with a web page (a login, a proxy, an error?)")
        start, total = _extent(response)
        if start > have:
            raise Unusable(f"the server sends from byte {start} on, asked was from {have} on")
        if size is not None and total not in (size, None):
            raise Unusable(f"it has {total} bytes, expected {size}")
        chunks = _chunks(response)
        head = next(chunks, b"")
        if start == 0 and re.match(rb"\s*<(!doctype html|html)", head, re.IGNORECASE):
            raise Unusable("the server answers with a web page (a login, a proxy, an error?)")
        skip, reported = have - start, time.monotonic()
        with part.open("ab") as file:
            for data in itertools.chain([head], chunks):
                start += len(data)
                file.write(data[skip:])
                skip = max(0, skip - len(data))
                if time.monotonic() - reported >= patience.report:
                    reported = time.monotonic()
                    log.info("%s: %s of %s", name, _mb(start), _mb(total) if total else "?")
    total = size if total is None else total
    if total is not None and start < total:
        raise Interrupted(f"the connection ended after {_mb(start)} of {_mb(total)}")


def _extent(response: http.client.HTTPResponse) -> tuple[int, int | None]:
    """First byte of the file in this answer, and the whole file's size where it is told."""
    length = response.headers.get("Content-Length")
    if response.status != 206:  # the server knows no ranges and starts again
        return 0, int(length) if length is not None else None
    span = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    if not span:
        raise Unusable("the server sends a part of the file without saying which")
    return int(span[1]), int(span[2]) if span[2] != "*" else None


def _chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """What arrives, as it arrives."""
    while True:
        try:
            data = response.read1(CHUNK)
        except (OSError, http.client.HTTPException) as error:
            early = isinstance(error, http.client.IncompleteRead)
            why = "it ended early" if early else error or type(error).__name__
            raise Interrupted(f"the connection broke ({why})") from error
        if not data:
            return
        yield data


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
