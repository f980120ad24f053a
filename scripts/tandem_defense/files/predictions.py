"""Prediction rows, one per image × classifier × attack × defense × iteration × seed, as Parquet."""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from tandem_defense.extras import extra
from tandem_defense.files.base import FileError, made_by, replacing
from tandem_defense.files.digest import KEY, Digest

with extra("pipeline"):
    import pandas as pd
    import pyarrow as pa
    from pyarrow import parquet

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
# In the file's metadata, beside the digest: on how many images DIP₁ stayed flat.
FLAT = b"tandem_defense_flat_first_outputs"


def write(table: pd.DataFrame, path: str | Path, *, flat_first_outputs: int = 0) -> None:
    """Store prediction rows with typed columns in the documented order, atomically.

    flat_first_outputs : on how many images t-DIPs' first network was still a nearly flat image
        when it was stopped; the file's metadata say it
    """
    _write([table], path, lambda: flat_first_outputs)


def gather(files: Iterable[str | Path], path: str | Path) -> None:
    """Store the rows of many files in one, with one file in memory at a time, atomically.

    Raises FileError for the first file that :func:`read` refuses.
    """
    files = list(files)
    tables = (read(file, "evaluate, restore or restore_clean") for file in files)
    _write(tables, path, lambda: sum(map(flat_first_outputs, files)))


def flat_first_outputs(path: str | Path) -> int:
    """On how many images, as :func:`write` was told, t-DIPs' first network stayed nearly flat."""
    return int((parquet.read_metadata(path).metadata or {}).get(FLAT, b"0"))


def _write(tables: Iterable[pd.DataFrame], path: str | Path, flat: Callable[[], int]) -> None:
    schema = pa.Schema.from_pandas(_typed(pd.DataFrame(columns=COLUMNS)), preserve_index=False)
    digest = Digest(TYPES)
    with replacing(path) as part, parquet.ParquetWriter(part, schema) as writer:
        for table in map(_typed, tables):
            digest.update(table)
            writer.write_table(pa.Table.from_pandas(table, schema, preserve_index=False))
        writer.add_key_value_metadata({KEY: digest.text(), FLAT: str(flat()).encode()})


def _typed(table: pd.DataFrame) -> pd.DataFrame:
    return table[COLUMNS].astype(TYPES)


def read(path: str | Path, rule: str) -> pd.DataFrame:
    """The rows of a file that the rule `rule` has written.

    Raises FileError if the file is missing, damaged, empty or holds what no prediction is.
    """

    def check(holds: bool, types: str) -> None:
        if not holds:
            raise FileError(path, types, made_by(rule))

    try:
        with parquet.ParquetFile(path) as file:
            table, stored = file.read().to_pandas(), (file.metadata.metadata or {}).get(KEY)
    except Exception as error:  # damaged Parquet raises whatever its parts raise
        raise FileError(path, f"cannot be read as Parquet ({error})", made_by(rule)) from error
    check(list(table) == COLUMNS, f"has the columns {list(table)}, expected {COLUMNS}")
    types = {name: str(dtype) for name, dtype in table.dtypes.items()}
    expected = {name: str(dtype) for name, dtype in table[:0].astype(TYPES).dtypes.items()}
    check(types == expected, f"has the types {types}, expected {expected}")
    check(not table.isna().any(axis=None), "has missing values")
    digest = Digest(TYPES)
    digest.update(table)
    check(stored == digest.text(), "was altered after it was written (its checksum differs)")
    check(len(table) > 0, "has no rows")
    classes = table[["label", "clean_prediction", "prediction"]].to_numpy()
    check(classes.min() >= 0, "has classes below 0")
    norms = table[["linf", "l2"]].to_numpy()
    check(bool(np.isfinite(norms).all() and (norms >= 0).all()), "has norms below 0 or infinite")
    return table
