"""All predictions of an experiment in one tidy table."""

import pandas as pd

from tandem_defense import logs

with logs.capture(snakemake.log[0]):
    tables = [pd.read_parquet(file) for file in snakemake.input]
    pd.concat(tables, ignore_index=True).to_parquet(snakemake.output[0], index=False)
