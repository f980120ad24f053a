"""All judgments of an experiment's threats in one tidy table."""

from tandem_defense.startup import quick_start

with quick_start():
    from tandem_defense.files import judgments
    from tandem_defense.pipeline import logs

with logs.capture(snakemake.log[0]):
    judgments.gather(snakemake.input, snakemake.output[0])
