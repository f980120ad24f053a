"""One figure as PDF and PNG, with the data behind it as CSV."""

from tandem_defense.startup import quick_start

with quick_start():
    from tandem_defense.artifacts import style
    from tandem_defense.artifacts.base import Inputs, Sheet
    from tandem_defense.pipeline import classes, logs

with logs.capture(snakemake.log[0]):
    params, output = snakemake.params, snakemake.output
    inputs = Inputs(dict(snakemake.input.items()), params.classifier, params.published)
    drawing, data = classes.build(params.entry).draw(inputs, Sheet(**params.sheet))
    data.to_csv(output.csv, index=False)
    style.save(drawing, output.pdf, output.png)
