"""A checksum of a table's rows, which its Parquet file carries in its metadata under ``KEY``."""

from collections.abc import Mapping
from hashlib import sha256

from tandem_defense.extras import extra

with extra("pipeline"):
    import pandas as pd

KEY = b"tandem_defense"


class Digest:
    """SHA-256 of rows, column by column: the same however the rows are split into tables.

    types : the columns in their order, each with its type
    """

    def __init__(self, types: Mapping[str, str]):
        self.types = types
        self.columns = {name: sha256() for name in types}

    def update(self, table: pd.DataFrame) -> None:
        """Add rows."""
        for name, kind in self.types.items():
            values = table[name].to_numpy()
            data = "".join(f"{v}\0" for v in values).encode() if kind == "str" else values.tobytes()
            self.columns[name].update(data)

    def text(self) -> bytes:
        """The digest of all columns."""
        whole = sha256(b"".join(column.digest() for column in self.columns.values()))
        return whole.hexdigest().encode()
