"""Reading pictures that users bring."""

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

# Decoded by Pillow itself; for EPS it would start another program.
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "PPM", "TIFF", "WEBP")


def read(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """A picture's pixels (H, W, 1 or 3) uint8, and its alpha channel (H, W, 1) if it has one.

    Raises ValueError for what is not a picture of one of ``FORMATS`` or is larger than Pillow's
    limit against decompression bombs.
    """
    try:
        with Image.open(path, formats=FORMATS) as picture:
            if picture.width * picture.height > Image.MAX_IMAGE_PIXELS:  # nothing is decoded yet
                raise ValueError(f"{path} has {picture.size} pixels: make it smaller")
            gray = picture.mode in ("1", "L", "LA", "I", "I;16", "F")
            if picture.mode in ("I", "I;16", "F"):
                raise ValueError(f"{path} has more than 8 bits per pixel: convert it to 8 bits")
            alpha = picture.mode in ("LA", "RGBA", "PA") or "transparency" in picture.info
            mode = ("LA" if gray else "RGBA") if alpha else ("L" if gray else "RGB")
            pixels = np.array(picture.convert(mode))
    except FileNotFoundError:
        raise
    except (OSError, SyntaxError, EOFError, struct.error, zlib.error) as error:
        raise ValueError(f"{path} cannot be read as a picture: {error}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"{path} cannot be read as a picture: {error}") from error
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    return (pixels[..., :-1], pixels[..., -1:]) if alpha else (pixels, None)
