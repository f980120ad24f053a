"""All predictions of an experiment in one tidy table, with one file in memory at a time."""

from tandem_defense import logs
from tandem_defense.evaluation import tables

with logs.capture(snakemake.log[0]):
    tables.gather(snakemake.input, snakemake.output[0])
