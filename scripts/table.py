"""One table as CSV, Markdown and LaTeX, aggregated from the prediction rows of its experiment."""

from pathlib import Path

from tandem_defense.startup import quick_start

with quick_start():
    from tandem_defense.artifacts import printing
    from tandem_defense.artifacts.base import Inputs, Sheet
    from tandem_defense.pipeline import classes, logs

with logs.capture(snakemake.log[0]):
    params, output = snakemake.params, snakemake.output
    kind, sheet = classes.build(params.entry), Sheet(**params.sheet)
    table = kind.frame(
        Inputs(dict(snakemake.input.items()), params.classifier, params.published), sheet
    )
    table.to_csv(output.csv, index=False)
    for file, print_, marks in (
        (output.markdown, printing.markdown, printing.MARKDOWN),
        (output.latex, printing.latex, printing.LATEX),
    ):
        Path(file).write_text(print_(kind.grid(table, sheet, marks)), encoding="utf-8")
