"""Arrays out of NumPy files that hold them as pickles, which are programs, without running one."""

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

LIMIT = 1 << 28  # bytes of one file after unpacking


def read_arrays(path: str | Path) -> list[np.ndarray]:
    """The numeric arrays that ``numpy.save`` or ``savez`` stored as one array of objects.

    NumPy itself reads such a file only with ``allow_pickle=True``, which runs whatever code is in
    it. Here a pickle may rebuild arrays, lists, tuples, dicts, numbers and texts, nothing else.
    Raises ValueError that names the file and what it holds instead.
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
        found = ArrayUnpickler(file).load()
        arrays = [np.asarray(item) for item in np.ravel(found)]
        if not all(a.dtype.kind in "fiu" for a in arrays):
            raise ValueError(f"it holds {', '.join(sorted({str(a.dtype) for a in arrays}))}")
    except (ValueError, TypeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not a file of pickled numeric arrays: {error}") from error
    return arrays


def _only_member(data: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as packed:
        members = packed.infolist()
        if len(members) != 1 or members[0].file_size > LIMIT:
            raise ValueError(f"it holds {len(members)} arrays of objects, expected one")
        return packed.read(members[0])


def _encode(text: str, encoding: str) -> bytes:
    """``codecs.encode`` as Python 3 writes bytes into old pickles; no other codec."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it asks for the codec {encoding!r}")
    return text.encode("latin1")


ALLOWED = {
    **{
        (f"numpy.{core}.multiarray", "_reconstruct"): np._core.multiarray._reconstruct
        for core in ("core", "_core")
    },
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _encode,
}


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
