"""Decode a dataset once, into one file per split."""

from tandem_defense.files.images import write_images
from tandem_defense.pipeline import classes, logs

with logs.capture(snakemake.log[0]):
    splits = classes.build(snakemake.params.entry).load()
    for name in ("train", "test"):
        write_images(snakemake.output[name], splits[name])
