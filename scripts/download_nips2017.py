"""Download the NIPS 2017 DEV images and check them."""

from pathlib import Path

from tandem_defense import logs
from tandem_defense.stages import download

with logs.capture(snakemake.log[0]):
    download.nips2017(Path(snakemake.output.labels).parent, snakemake.input.manifest)
