"""The command ``tandem-defense``: restore one picture, without Snakemake."""

import argparse
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

# Decoded by Pillow itself; for EPS it would start another program.
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "PPM", "TIFF", "WEBP")


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit status (2 for input that cannot be used)."""
    options = parser().parse_args(arguments)
    try:
        restore(options)
    except (ValueError, OSError) as error:
        print(f"tandem-defense: {error}", file=sys.stderr)
        return 2
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="tandem-defense", description=__doc__)
    commands = top.add_subparsers(required=True)
    command = commands.add_parser(
        "restore",
        help="remove adversarial perturbations from a picture with t-DIPs",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    command.add_argument("picture", type=Path, help="PNG, JPEG, ...; RGB or gray, any size")
    command.add_argument("-o", "--output", type=Path, required=True, help="where to write it")
    command.add_argument(
        "--iterations", type=_count, default=1000, help="λ₂, of the second network"
    )
    command.add_argument("--first-iterations", type=_count, default=100, help="λ₁, of the first")
    command.add_argument("--feature-scale", type=_count, default=8, help="divides DIP₂'s widths")
    command.add_argument("--seed", type=int, default=0, help="of weights and input noise")
    command.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    command.add_argument("--threads", type=_count, default=2, help="CPU threads")
    return top


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"found {value}, expected a whole number ≥ 1")
    return value


def restore(options: argparse.Namespace) -> None:
    """Read, restore with a progress bar, write."""
    pixels, alpha = read(options.picture)
    formats = Image.registered_extensions()
    if options.output.suffix.lower() not in formats:
        raise ValueError(f"{options.output}: no picture format has this ending; try .png")
    if not options.output.parent.is_dir():
        raise ValueError(f"{options.output.parent} is not a folder")

    import torch  # after the checks, because it takes seconds
    from tqdm import tqdm

    from tandem_defense import device
    from tandem_defense.defenses.dip import TandemDIP

    chosen = device.prepare(options.threads, options.device)
    defense = TandemDIP(
        first_iterations=(options.first_iterations,),
        iterations=options.iterations,
        feature_scale=options.feature_scale,
        seed=options.seed,
    )
    images = torch.from_numpy(pixels).permute(2, 0, 1)[None].float().div(255).to(chosen)
    with tqdm(total=defense.steps(1, options.iterations), unit="step") as bar:
        defense.progress = bar.update
        restored = defense(images, ["picture"])
    result = restored[0].permute(1, 2, 0).mul(255).round().byte().cpu().numpy()
    result = np.concatenate([result, alpha], 2) if alpha is not None else result
    Image.fromarray(result.squeeze(2) if result.shape[2] == 1 else result).save(options.output)


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
