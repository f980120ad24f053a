"""A job's log file: everything the package logs, warnings, and the traceback if it fails."""

import logging
import sys
import traceback
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def capture(path: str, *, echo: bool = False):
    """Write log records of level INFO, and an error's traceback, to `path` while the block runs.

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
