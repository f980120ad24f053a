"""Picture files of others, decoded only if they are sound."""

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from tandem_defense.files.base import FileError

# What Pillow raises on damaged files.
BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)
BROKEN += (Image.DecompressionBombError,)


@contextmanager
def opened(path: Path, formats: tuple[str, ...], remedy: str) -> Iterator[Image.Image]:
    """A picture in one of Pillow's `formats`; its pixels are decoded when the block asks for them.

    Raises FileError for a file that is damaged or of another format, also while the block decodes
    it, FileNotFoundError for one that is missing.
    """
    try:
        with Image.open(path, formats=formats) as image:
            image.verify()  # the checksums, which decoding ignores; it closes the file
        with Image.open(path, formats=formats) as image:
            yield image
    except (FileError, FileNotFoundError):
        raise
    except BROKEN as error:
        kinds = " or ".join(formats)
        raise FileError(path, f"is not a {kinds} picture, or damaged ({error})", remedy) from error
