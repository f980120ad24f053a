"""Check a downloaded checkpoint once more and store it as a classifier's or defense's weights."""

from tandem_defense.pipeline import convert, logs

with logs.capture(snakemake.log[0]):
    convert.checkpoint(
        snakemake.params.entry,
        dict(zip(snakemake.params.names, snakemake.input.files, strict=True)),
        snakemake.input.manifest,
        snakemake.output[0],
    )
