"""A job's log file: what the package logs, warnings, how far it is, the traceback if it fails."""

import logging
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

log = logging.getLogger(__name__)

MINUTE = 60.0  # seconds


class Followed(Protocol):
    """What says how far a job is; see :class:`progress.Progress`."""

    def __str__(self) -> str:
        """How much of how much is done."""

    def left(self) -> float | None:
        """Seconds until it is done, None where nothing tells."""


_followed: Followed | None = None  # a process runs one job


def follow(progress: Followed) -> None:
    """Say once a minute in the job's log how far `progress` is, and when the job ends.

    What was followed before no longer is. Outside of :func:`capture` nothing is said.
    """
    global _followed
    _followed = progress


@contextmanager
def _a_line_a_minute() -> Iterator[None]:
    global _followed
    _followed, started, ended = None, time.monotonic(), threading.Event()

    # A thread, since a single step of an attack through a defense may take longer than a minute.
    def tell() -> None:
        while not ended.wait(MINUTE):
            if _followed is not None:
                left = _followed.left()
                log.info("%s, %s left", _followed, "unknown time" if left is None else span(left))

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        ended.set()
        teller.join()
        if _followed is not None:
            log.info("%s, ended after %s", _followed, span(time.monotonic() - started))


def span(seconds: float) -> str:
    """'40 s', '12 min' or '3 h 20 min'."""
    if seconds < MINUTE:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / MINUTE), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


@contextmanager
def capture(path: str, *, echo: bool = False):
    """Write log records of level INFO, and an error's traceback, to `path` while the block runs.

    Once a minute a line says how far the job is, if it has a :class:`progress.Progress`.

    echo : also print the records, for a job that somebody watches
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    handlers = [logging.FileHandler(path, mode="w", encoding="utf-8")]
    handlers[0].setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s"))
    if echo:
        handlers.append(logging.StreamHandler(sys.stderr))
        handlers[1].addFilter(lambda record: record.name.startswith("tandem_defense"))
    root = logging.getLogger()
    level = root.level
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)
    try:
        with _a_line_a_minute():
            yield
    except BaseException as error:
        logging.error("failed\n%s", traceback.format_exc())
        # The last line is what a reader of Snakemake's output needs; the log has the rest.
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        raise
    finally:
        logging.captureWarnings(False)
        root.setLevel(level)
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()
