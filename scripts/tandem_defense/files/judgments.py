"""What defended classifiers made of candidates: a row per image × threat × ε × draw, as Parquet."""

from collections.abc import Iterable
from pathlib import Path

from tandem_defense.extras import extra
from tandem_defense.files.base import FileError, made_by, replacing
from tandem_defense.files.candidates import FLAGS

with extra("pipeline"):
    import pandas as pd

TYPES = {
    "dataset": "str",
    "seed": "int64",
    "classifier": "str",
    "defense": "str",
    "threat": "str",
    "attack": "str",
    "epsilon": "float64",
    "image": "str",
    "label": "int64",
    "draw": "int64",
    "prediction": "int64",
    "rejected": "bool",
    "loss": "float32",
    "linf": "float32",
    "l2": "float32",
    "aware": "bool",
    "gradients": "bool",
    "samples": "int64",
    "random": "bool",
    "dynamic": "bool",
} | dict.fromkeys(FLAGS, "bool")
COLUMNS = list(TYPES)


def write(table: pd.DataFrame, path: str | Path) -> None:
    """Store rows with typed columns in the documented order, atomically."""
    with replacing(path) as part:
        table[COLUMNS].astype(TYPES).to_parquet(part, index=False)


def gather(files: Iterable[str | Path], path: str | Path) -> None:
    """Store the rows of many files in one. Raises FileError as :func:`read` does."""
    write(pd.concat([read(f, "evaluate_threats") for f in files], ignore_index=True), path)


def read(path: str | Path, rule: str) -> pd.DataFrame:
    """The rows of a file that the rule `rule` has written.

    Raises FileError if the file is missing, damaged, empty or has other columns or types.
    """
    try:
        table = pd.read_parquet(path)
    except Exception as error:  # damaged Parquet raises whatever its parts raise
        raise FileError(path, f"cannot be read as Parquet ({error})", made_by(rule)) from error
    expected = pd.DataFrame(columns=COLUMNS).astype(TYPES).dtypes.astype(str).to_dict()
    found = table.dtypes.astype(str).to_dict()
    if found != expected:
        raise FileError(path, f"has the columns {found}, expected {expected}", made_by(rule))
    if table.empty or table.isna().any(axis=None):
        raise FileError(path, "has no rows or missing values", made_by(rule))
    return table
