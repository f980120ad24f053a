"""Table 1 as CSV, Markdown and LaTeX, with the paired comparisons behind it."""

from pathlib import Path

from tandem_defense import logs, predictions
from tandem_defense.evaluation import tables
from tandem_defense.evaluation.published import read_table

with logs.capture(snakemake.log[0]):
    spec, labels = snakemake.params.spec, snakemake.params.labels
    rows = predictions.read(snakemake.input.predictions, "gather_predictions")
    published = read_table(snakemake.input.published, ["accuracy"])
    table = tables.table1(rows, spec, published)
    table.to_csv(snakemake.output.csv, index=False)
    caption = tables.describe(table, labels, seeds=rows["seed"].nunique())
    for output, render in {
        "markdown": tables.markdown_table1,
        "latex": tables.latex_table1,
    }.items():
        Path(snakemake.output[output]).write_text(render(table, labels, caption))
    tables.comparisons(rows, spec).to_csv(snakemake.output.comparisons, index=False)
