"""The papers' printed numbers, and other tables of rates, as CSV."""

from collections.abc import Sequence
from pathlib import Path

from tandem_defense.extras import extra
from tandem_defense.files.base import FileError

with extra("pipeline"):
    import pandas as pd

SHIPPED = "It comes with the checkout: `git checkout -- resources/published` brings it back."


def read_table(path: str | Path, rates: Sequence[str], remedy: str = SHIPPED) -> pd.DataFrame:
    """A table with a row per result; `rates` are its columns of numbers in [0, 1].

    Raises FileError that names the first value that cannot be.
    """
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError, pd.errors.ParserError) as error:
        raise FileError(path, f"is not a table ({error})", remedy) from error
    for name in rates:
        if name not in table:
            raise FileError(path, f"has the columns {list(table)}, expected {name} too", remedy)
        numbers = pd.to_numeric(table[name], errors="coerce")
        wrong = table[name].notna() & ~numbers.between(0, 1)
        if wrong.any():
            line = int(wrong.to_numpy().argmax())
            problem = f"has {name} {table[name][line]!r} in line {line + 2}, expected 0 to 1"
            raise FileError(path, problem, remedy)
    if not len(table):
        raise FileError(path, "has no rows", remedy)
    return table
