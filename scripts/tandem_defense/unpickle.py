"""Arrays out of NumPy files that hold them as pickles, which are programs, without running one."""

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from tandem_defense.files import FileError

REMEDY = "Delete it and run the same snakemake command again: rule download brings it anew."
LIMIT = 1 << 28  # bytes of one file after unpacking


def read_arrays(path: str | Path) -> list[np.ndarray]:
    """The numeric arrays that ``numpy.save`` or ``savez`` stored as one array of objects.

    NumPy itself reads such a file only with ``allow_pickle=True``, which runs whatever code is in
    it. Here a pickle may rebuild arrays, lists, tuples, dicts, numbers and texts, nothing else.
    Raises FileError that names the file and what it holds instead.
    """
    try:
        data = Path(path).read_bytes()
        if zipfile.is_zipfile(io.BytesIO(data)):
            data = _only_member(data)
        file = io.BytesIO(data)
        if npy.read_magic(file) != (1, 0):
            raise ValueError("its format is not NumPy's version 1.0")
        dtype = npy.read_array_header_1_0(file)[2]
        if not dtype.hasobject:
            raise ValueError(f"it holds one array of {dtype}: numpy.load reads that")
        return _arrays(ArrayUnpickler(file).load())
    except Exception as error:  # a damaged pickle raises whatever its instructions raise
        raise FileError(
            path, f"is not a file of pickled numeric arrays: {error}", REMEDY
        ) from error


def _only_member(data: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as packed:
        members = packed.infolist()
        if len(members) != 1 or members[0].file_size > LIMIT:
            raise ValueError(f"it holds {len(members)} arrays of objects, expected one")
        return packed.read(members[0])


class _Plain:
    """What a pickle may build: it has no attributes that a pickle could set."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("it changes what is none of its own")


class _Text(_Plain):
    """``codecs.encode`` as Python 3 writes bytes into old pickles; no other codec."""

    def __new__(cls, text: str, encoding: str) -> bytes:
        if encoding != "latin1":
            raise pickle.UnpicklingError(f"it asks for the codec {encoding!r}")
        return text.encode("latin1")


class _Type(_Plain):
    """``numpy.dtype``: numbers, or the objects of an array of arrays."""

    __slots__ = ("code", "order")

    def __init__(self, code: str, align: bool = False, copy: bool = False):
        self.code, self.order = str(code), "|"

    def __setstate__(self, state: tuple) -> None:
        self.order = str(state[1])

    def dtype(self) -> np.dtype:
        """The type, if it is a number's."""
        found = np.dtype(self.order + self.code)
        if found.kind not in "fiu":
            raise pickle.UnpicklingError(f"it holds {found}")
        return found


class _Array(_Plain):
    """``numpy.ndarray`` as a pickle rebuilds it: made empty, then given its state."""

    __slots__ = ("value",)

    def __init__(self, kind: object, shape: object, code: object):
        self.value = None

    def __setstate__(self, state: tuple) -> None:
        _, shape, kind, columns_first, data = state
        if kind.code.startswith("O"):
            self.value = list(data)
            return
        found = np.frombuffer(bytes(data), kind.dtype())
        self.value = found.reshape(shape, order="F" if columns_first else "C")


# NumPy's own way back from a pickle trusts it: a damaged one ends the process.
ALLOWED = {
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Array for core in ("core", "_core")},
    ("numpy", "ndarray"): _Plain,
    ("numpy", "dtype"): _Type,
    ("_codecs", "encode"): _Text,
}


def _arrays(found: object) -> list[np.ndarray]:
    """The arrays in what a pickle has built, in their order."""
    value = found.value if isinstance(found, _Array) else found
    if isinstance(value, np.ndarray):
        return [value]
    if isinstance(value, list | tuple):
        return [array for item in value for array in _arrays(item)]
    raise ValueError(f"it holds {type(value).__name__}, expected arrays of numbers")


class ArrayUnpickler(pickle.Unpickler):
    """Knows arrays and nothing else."""

    def find_class(self, module: str, name: str) -> object:
        """What the pickle calls by this name. Raises UnpicklingError for all but ``ALLOWED``."""
        try:
            return ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}, which is not needed for arrays: do not trust it"
            ) from None
