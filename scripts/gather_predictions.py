"""All predictions of an experiment in one tidy table."""

import pandas as pd

from tandem_defense import logs, predictions

with logs.capture(snakemake.log[0]):
    rule = "evaluate, restore or restore_clean"
    tables = [predictions.read(file, rule) for file in snakemake.input]
    predictions.write(pd.concat(tables, ignore_index=True), snakemake.output[0])
