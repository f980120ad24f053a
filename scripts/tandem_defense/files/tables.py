"""Tables as CSV files between jobs."""

from pathlib import Path

from tandem_defense.extras import extra
from tandem_defense.files.base import FileError, made_by

with extra("pipeline"):
    import pandas as pd


def read_csv(path: str | Path, remedy: str | None = None, **options) -> pd.DataFrame:
    """The table in a CSV file, with pandas' options.

    remedy : by default, that the rule or table of the file's name makes it

    Raises FileError for a file that is none, or is empty. A table that was cut at the end of a
    line looks whole: it has no checksum.
    """
    try:
        return pd.read_csv(path, **options)
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        why = f"cannot be read as a table ({error})"
        raise FileError(path, why, remedy or made_by(Path(path).stem)) from error
