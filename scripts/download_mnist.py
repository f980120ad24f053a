"""Download MNIST's four idx files."""

from pathlib import Path

from tandem_defense import logs
from tandem_defense.stages import download

with logs.capture(snakemake.log[0]):
    download.mnist(Path(snakemake.output[0]).parent)
