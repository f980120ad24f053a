"""Figure 7: original, attacked, restored by DIP and by t-DIPs, side by side."""

from tandem_defense import logs
from tandem_defense.evaluation import panels, plots
from tandem_defense.stages import show

with logs.capture(snakemake.log[0]):
    files, params = snakemake.input, snakemake.params
    shown = show.load(files, (params.classifier, files.classifier), params.spec)
    figure = panels.figure7(show.figure7_rows(shown), show.note(shown, params.labels))
    plots.save(figure, snakemake.output.pdf, snakemake.output.png)
