"""What defended classifiers made of candidates: a row per image × threat × ε × draw, as Parquet."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from tandem_defense.extras import extra
from tandem_defense.files.base import FileError, made_by, replacing
from tandem_defense.files.candidates import FLAGS
from tandem_defense.files.digest import KEY, Digest

with extra("pipeline"):
    import pandas as pd
    import pyarrow as pa
    from pyarrow import parquet

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
    """Store rows with typed columns in the documented order, atomically, with their checksum."""
    table, digest = table[COLUMNS].astype(TYPES), Digest(TYPES)
    digest.update(table)
    rows = pa.Table.from_pandas(table, preserve_index=False)
    with replacing(path) as part, parquet.ParquetWriter(part, rows.schema) as writer:
        writer.write_table(rows)
        writer.add_key_value_metadata({KEY: digest.text()})


def gather(files: Iterable[str | Path], path: str | Path) -> None:
    """Store the rows of many files in one. Raises FileError as :func:`read` does."""
    write(pd.concat([read(f, "evaluate_threats") for f in files], ignore_index=True), path)


def read(path: str | Path, rule: str) -> pd.DataFrame:
    """The rows of a file that the rule `rule` has written.

    Raises FileError if the file is missing, damaged, altered, empty or holds what no judgment is.
    """

    def check(holds: bool, what: str) -> None:
        if not holds:
            raise FileError(path, what, made_by(rule))

    try:
        with parquet.ParquetFile(path) as file:
            table, stored = file.read().to_pandas(), (file.metadata.metadata or {}).get(KEY)
    except Exception as error:  # damaged Parquet raises whatever its parts raise
        raise FileError(path, f"cannot be read as Parquet ({error})", made_by(rule)) from error
    expected = pd.DataFrame(columns=COLUMNS).astype(TYPES).dtypes.astype(str).to_dict()
    found = table.dtypes.astype(str).to_dict()
    check(found == expected, f"has the columns {found}, expected {expected}")
    check(not table.empty and not table.isna().any(axis=None), "has no rows or missing values")
    digest = Digest(TYPES)
    digest.update(table)
    check(stored == digest.text(), "was altered after it was written (its checksum differs)")
    check(table[["label", "prediction"]].to_numpy().min() >= 0, "has classes below 0")
    norms = table[["linf", "l2"]].to_numpy()
    check(bool(np.isfinite(norms).all() and (norms >= 0).all()), "has norms below 0 or infinite")
    return table
