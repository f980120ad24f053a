"""A job's log file: everything the package logs, warnings, and the traceback if it fails."""

import logging
import sys
import traceback
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def capture(path: str):
    """Write log records of level INFO, and an error's traceback, to `path` while the block runs."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, mode="w", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s"))
    root = logging.getLogger()
    level = root.level
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
        root.removeHandler(handler)
        root.setLevel(level)
        handler.close()
