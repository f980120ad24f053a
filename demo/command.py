"""Run the command ``tandem-defense`` on scikit-image's pictures; write docs/command.md.

python demo/command.py

The page is what the command printed, and its seconds are this machine's.
"""

import os
import resource
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image
from skimage import data

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/command.md"
TEXT = """# The command

`pip install .` brings the command `tandem-defense` (also `python -m tandem_defense`). `restore`
needs nothing more, `evaluate` `pip install ".[pipeline]"`. What follows is a transcript, made by
`python demo/command.py` on {cpus} CPU threads: five pictures, then a comparison of defenses on
photographs.

## Restoring pictures

{restore}

* Pictures may be files, folders or `-` for standard input; the output is a file, a folder for
  several, or `-`. Pictures of one size are restored in one batch, and each is written as soon as it
  is done: into a temporary file, which then takes the name.
* Everything is checked before anything is computed: that every picture can be read, that its
  output's format can hold it, that the folder can be written. Input that cannot be used ends the
  command with status 2 and one line, work that fails with 1, an interrupt with 130.
* Orientation (applied to the pixels), EXIF data, color profile and resolution are kept where the
  format has room for them. Transparency is kept, or flattened on white with a word about it. XMP
  data and comments are not kept.
* 16 bits per value are restored and written as such for gray PNG and TIFF; color pictures with 16
  bits are refused, as are several frames.
* The time is estimated from a few steps of both networks, the memory from their layers; a picture
  that does not fit is refused. `--max-size 1024` makes it smaller. `--tile 512` cuts it into
  overlapping squares, each restored by itself and blended: a picture of 15 megapixels takes
  {big} GB that way. No network sees the whole picture then; the paper's pictures have 299 pixels.
* Without `--threads` all CPUs are used, also for one picture; the result is the same to the last
  bit with any number of them.

## Comparing defenses

{evaluate}

Kinds and settings are a [configuration's](extending.md#the-same-without-snakemake);
the small network is trained on other patches of the photographs first. `-o` writes the table
unrounded. `tandem_defense.evaluate` is the same as a function.
"""


def pictures(folder: Path) -> None:
    """Five pictures of different kinds."""
    folder.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6  # on its side
    Image.fromarray(data.chelsea()[:224, :300]).save(folder / "cat.jpg", exif=exif, quality=95)
    Image.fromarray(data.astronaut()[:224, 100:324]).save(folder / "astronaut.png")
    Image.fromarray(data.coffee()[:224, 100:324]).save(folder / "coffee.png")
    logo = Image.fromarray(data.logo()).resize((224, 224))
    logo.save(folder / "logo.webp", lossless=True)
    camera = data.camera()[100:324, 100:324].astype(np.uint16) * 257
    tifffile.imwrite(folder / "camera.tif", camera, byteorder=">")


def transcript(commands: list[str], folder: Path) -> str:
    """What the commands print, as in a terminal without a bar."""
    lines = []
    environment = os.environ | {"PYTHONPATH": str(ROOT / "scripts")}
    for command in commands:
        arguments = shlex.split(command)
        if arguments[0] == "tandem-defense":
            arguments = [sys.executable, "-m", "tandem_defense", *arguments[1:]]
        run = subprocess.run(
            arguments,
            cwd=folder,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        lines += [f"$ {command}", run.stdout.rstrip()]
        lines += [f"(exit status {run.returncode})"] if run.returncode else []
    return "```console\n" + "\n".join(filter(None, lines)) + "\n```"


def peak_of_a_large_picture(folder: Path) -> float:
    """GB, the most that restoring 15 megapixels in tiles takes at once; steps do not change it."""
    pixels = np.tile(data.astronaut(), (7, 9, 1))[:3354, :4472]
    Image.fromarray(pixels).save(folder / "large.png")
    command = "tandem-defense restore large.png -o large-restored.png --tile 512"
    print(transcript([f"{command} --iterations 1 --first-iterations 1"], folder))
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e9


def main() -> None:
    """Write the page."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        big = f"{peak_of_a_large_picture(folder):.1f}"
        pictures(folder / "pictures")
        restore = transcript(
            [
                "ls pictures",
                "tandem-defense restore pictures -o restored --iterations 100"
                " --first-iterations 20",
                "tandem-defense restore pictures/logo.webp -o logo.jpg --iterations 20",
                "tandem-defense restore pictures/camera.tif -o camera.jpg",
                "tandem-defense restore pictures/cat.jpg -o cat.png --iterations many",
            ],
            folder,
        )
        evaluate = transcript(
            [
                "tandem-defense evaluate --photos 14 --classifier small_cnn --attacks fgsm bim"
                " --defenses jpeg average_blur"
                " tdips:iterations=60,first_iterations=10,feature_scale=16"
                " -o table.csv",
                "tandem-defense evaluate --photos --classifier small_cnn --attacks bim"
                " --defenses jpeg:quality=1000",
            ],
            folder,
        )
    PAGE.write_text(TEXT.format(cpus=os.cpu_count(), restore=restore, evaluate=evaluate, big=big))


if __name__ == "__main__":
    main()
