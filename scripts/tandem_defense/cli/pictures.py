"""Pictures that users bring: read with all that belongs to them, written in one piece."""

import io
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

# Decoded by Pillow itself; for EPS it would start another program.
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "PPM", "TIFF", "WEBP")
# What is written, by the ending of the name. GIF is not: it has 256 colors.
ENDINGS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".tif": "TIFF", ".tiff": "TIFF"}
ENDINGS |= {".webp": "WEBP", ".bmp": "BMP", ".ppm": "PPM", ".pgm": "PPM"}
READABLE = (*ENDINGS, ".gif")
TRANSPARENT = ("PNG", "TIFF", "WEBP")  # formats with an alpha channel
DEEP = ("PNG", "TIFF")  # formats with 16 bits per value
# What a format keeps beside the pixels.
METADATA = {
    "PNG": ("exif", "icc_profile", "dpi"),
    "JPEG": ("exif", "icc_profile", "dpi"),
    "TIFF": ("exif", "icc_profile", "dpi"),
    "WEBP": ("exif", "icc_profile"),
    "BMP": ("dpi",),
    "PPM": (),
}
WORDS = {"exif": "EXIF data", "icc_profile": "color profile", "dpi": "resolution"}
# The least loss that a format allows.
QUALITY = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}
# Tags of a TIFF that describe the picture; its others describe the file, which will be another.
DESCRIPTIVE = (270, 271, 272, 305, 306, 315, 33432, 34665, 34853)
ORIENTATION = 274


@dataclass(frozen=True)
class Picture:
    """A picture and what belongs to it.

    pixels : (H, W, 1) gray or (H, W, 3) RGB, float32 in [0, 1], upright
    alpha : (H, W, 1) likewise, None where everything is opaque
    depth : bits per value, 8 or 16
    format : of the file, one of ``FORMATS``
    metadata : `exif`, `icc_profile` and `dpi` as Pillow has them, where they are there
    lost : in words, what reading it could not keep
    """

    pixels: np.ndarray
    alpha: np.ndarray | None
    depth: int
    format: str
    metadata: Mapping[str, object] = field(default_factory=dict)
    lost: tuple[str, ...] = ()


def read(file: Path | BinaryIO, name: str | Path | None = None) -> Picture:
    """Read a picture from a path, or from an open file that messages call `name`.

    Raises ValueError for what is not a picture of one of ``FORMATS``, has several frames, more
    than 8 bits per value and is not gray with 16, or is larger than Pillow's limit against
    decompression bombs.
    """
    name = name or file
    try:
        with Image.open(file, formats=FORMATS) as picture:
            if picture.width * picture.height > Image.MAX_IMAGE_PIXELS:  # nothing is decoded yet
                raise ValueError(f"{name} has {picture.size} pixels: make it smaller")
            return _decoded(picture, name)
    except FileNotFoundError:
        raise ValueError(f"{name} does not exist") from None
    except (OSError, SyntaxError, EOFError, struct.error, zlib.error) as error:
        raise ValueError(f"{name} cannot be read as a picture: {error}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"{name} cannot be read as a picture: {error}") from error


def _decoded(picture: Image.Image, name: str | Path) -> Picture:
    if getattr(picture, "n_frames", 1) > 1:
        raise ValueError(f"{name} has {picture.n_frames} frames, expected one: extract it first")
    deep = _depth(picture, name) == 16
    format, mode, alpha = picture.format, picture.mode, picture.has_transparency_data
    gray = deep or mode in ("1", "L", "LA")
    picture.load()
    exif = picture.getexif()
    picture = ImageOps.exif_transpose(picture)
    exif.pop(ORIENTATION, None)
    metadata = {k: picture.info[k] for k in ("icc_profile", "dpi") if picture.info.get(k)}
    lost = []
    if mode in ("CMYK", "YCbCr", "LAB", "HSV"):  # its profile describes other channels
        lost.append(f"its {mode} values were converted to RGB")
        if metadata.pop("icc_profile", None):
            lost.append("its color profile does not fit them and is left out")
    if format == "TIFF":
        for tag in [tag for tag in exif if tag not in DESCRIPTIVE]:
            del exif[tag]
    if len(exif):
        metadata["exif"] = exif.tobytes()
    if deep:
        values = np.asarray(picture).astype(np.uint16)[..., None]
    else:
        wanted = ("LA" if gray else "RGBA") if alpha else ("L" if gray else "RGB")
        values = np.asarray(picture.convert(wanted))
        values = values.reshape(*values.shape[:2], -1)
    values = values.astype(np.float32) / np.float32(65535 if deep else 255)
    pixels, alpha = (values[..., :-1], values[..., -1:]) if alpha else (values, None)
    return Picture(pixels, alpha, 16 if deep else 8, format, metadata, tuple(lost))


def _depth(picture: Image.Image, name: str | Path) -> int:
    """Bits per value, 8 or 16 (gray only); ValueError for what Pillow would cut to 8 bits."""
    mode, raw = picture.mode, picture.tile[0].args if picture.tile else ()
    layout = raw if isinstance(raw, str) else next((x for x in raw or () if x), "")
    bits = getattr(picture, "tag_v2", {}).get(258, (8,))  # a TIFF's
    inverted = getattr(picture, "tag_v2", {}).get(262) == 0
    if mode.startswith("I;16") and not inverted and "transparency" not in picture.info:
        return 16
    samples = raw[1] if picture.format == "PPM" and isinstance(raw, tuple) else 255
    if mode[0] in "IF" or ";16" in str(layout) or max(bits) > 8 or samples not in (0, 255):
        if not (picture.format == "BMP" or mode == "P"):  # 5 bits per value, or an index
            raise ValueError(
                f"{name} has more than 8 bits per value, which is supported for gray pictures with"
                " 16 bits: convert it to 8 bits"
            )
    return 8


def encode(picture: Picture, format: str) -> tuple[bytes, list[str]]:
    """The content of a file of `format`, and in words what it does not keep of the picture.

    Transparency is flattened on white in a format without it. Raises ValueError for what the
    format cannot hold at all.
    """
    pixels, alpha, lost = picture.pixels, picture.alpha, []
    if picture.depth == 16 and format not in DEEP:
        raise ValueError(f"{format} has 8 bits per value, the picture 16: write .png or .tiff")
    if alpha is not None and format not in TRANSPARENT:
        pixels, alpha = pixels * alpha + (1 - alpha), None
        lost.append(f"{format} has no transparency: flattened on white")
    known = METADATA[format]
    missing = [WORDS[key] for key in picture.metadata if key not in known]
    if missing:
        lost.append(f"{format} has no room for its {', '.join(missing)}")
    values = pixels if alpha is None else np.concatenate([pixels, alpha], 2)
    most, kind = (65535, np.uint16) if picture.depth == 16 else (255, np.uint8)
    values = (values * most).round().clip(0, most).astype(kind)
    image = Image.fromarray(values.squeeze(2) if values.shape[2] == 1 else values)
    metadata = {key: value for key, value in picture.metadata.items() if key in known}
    file = io.BytesIO()
    try:
        image.save(file, format, **metadata, **QUALITY.get(format, {}))
    except (OSError, ValueError, TypeError, struct.error) as error:
        raise ValueError(f"the picture cannot be written as {format}: {error}") from error
    return file.getvalue(), lost
