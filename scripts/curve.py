"""Figure 3 or 6: accuracy against the number of iterations, with the curves as CSV."""

from tandem_defense import logs, predictions
from tandem_defense.evaluation import plots

with logs.capture(snakemake.log[0]):
    spec, labels = snakemake.params.spec, snakemake.params.labels
    rows = predictions.read(snakemake.input.predictions, "gather_predictions")
    draw = {"figure3": plots.figure3, "figure6": plots.figure6}[snakemake.wildcards.figure]
    curves = plots.curves(rows, spec)
    curves.to_csv(snakemake.output.csv, index=False)
    note = f"{spec['dataset']}, 95 % Wilson intervals; oblivious attacker"
    plots.save(draw(rows, spec, labels, note), snakemake.output.pdf, snakemake.output.png)
