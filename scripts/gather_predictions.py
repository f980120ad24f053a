"""All predictions of an experiment in one tidy table, with one file in memory at a time."""

from tandem_defense.startup import quick_start

with quick_start():
    from tandem_defense.files import predictions
    from tandem_defense.pipeline import logs

with logs.capture(snakemake.log[0]):
    predictions.gather(snakemake.input, snakemake.output[0])
