"""Download a torchvision checkpoint and store it as a classifier's weights."""

from tandem_defense import logs
from tandem_defense.stages import train

with logs.capture(snakemake.log[0]):
    train.fetch(snakemake.params.entry, snakemake.output[0])
