"""Table 2 as CSV, Markdown and LaTeX."""

from pathlib import Path

import pandas as pd

from tandem_defense import logs
from tandem_defense.evaluation import tables

with logs.capture(snakemake.log[0]):
    spec, labels = snakemake.params.spec, snakemake.params.labels
    predictions = pd.read_parquet(snakemake.input.predictions)
    table = tables.table2(predictions, spec, pd.read_csv(snakemake.input.published))
    table.to_csv(snakemake.output.csv, index=False)
    caption = tables.describe(table, labels, seeds=predictions["seed"].nunique())
    for output, render in {
        "markdown": tables.markdown_table2,
        "latex": tables.latex_table2,
    }.items():
        Path(snakemake.output[output]).write_text(render(table, labels, caption))
