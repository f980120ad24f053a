"""Prediction rows, one per image × classifier × attack × defense × iteration × seed, as Parquet."""

from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from tandem_defense.files import FileError, made_by, replacing

TYPES = {
    "dataset": "str",
    "seed": "int64",
    "classifier": "str",
    "attack": "str",
    "defense": "str",
    "first_iterations": "int64",
    "iteration": "int64",
    "image": "str",
    "label": "int64",
    "clean_prediction": "int64",
    "prediction": "int64",
    "rejected": "bool",
    "success": "bool",
    "linf": "float32",
    "l2": "float32",
}
COLUMNS = list(TYPES)
KEY = b"tandem_defense"  # of the content's SHA-256 in the file's metadata


def write(table: pd.DataFrame, path: str | Path) -> None:
    """Store prediction rows with typed columns in the documented order, atomically."""
    table = table[COLUMNS].astype(TYPES)
    content = pa.Table.from_pandas(table, preserve_index=False)
    content = content.replace_schema_metadata(content.schema.metadata | {KEY: _digest(table)})
    with replacing(path) as part:
        parquet.write_table(content, part)


def read(path: str | Path, rule: str) -> pd.DataFrame:
    """The rows of a file that the rule `rule` has written.

    Raises FileError if the file is missing, damaged, empty or holds what no prediction is.
    """

    def check(holds: bool, found: str) -> None:
        if not holds:
            raise FileError(path, found, made_by(rule))

    try:
        content = parquet.read_table(path)
        table = content.to_pandas()
    except Exception as error:  # damaged Parquet raises whatever its parts raise
        raise FileError(path, f"cannot be read as Parquet ({error})", made_by(rule)) from error
    check(list(table) == COLUMNS, f"has the columns {list(table)}, expected {COLUMNS}")
    found = {name: str(dtype) for name, dtype in table.dtypes.items()}
    expected = {name: str(dtype) for name, dtype in table[:0].astype(TYPES).dtypes.items()}
    check(found == expected, f"has the types {found}, expected {expected}")
    check(not table.isna().any(axis=None), "has missing values")
    digest = (content.schema.metadata or {}).get(KEY)
    check(digest == _digest(table), "was altered after it was written (its checksum differs)")
    check(len(table) > 0, "has no rows")
    classes = table[["label", "clean_prediction", "prediction"]].to_numpy()
    check(classes.min() >= 0, "has classes below 0")
    norms = table[["linf", "l2"]].to_numpy()
    check(bool(np.isfinite(norms).all() and (norms >= 0).all()), "has norms below 0 or infinite")
    return table


def _digest(table: pd.DataFrame) -> bytes:
    total = sha256()
    for name, kind in TYPES.items():
        values = table[name].to_numpy()
        data = "\0".join(values).encode() if kind == "str" else values.tobytes()
        total.update(f"{name} {len(data)} ".encode() + data)
    return total.hexdigest().encode()
