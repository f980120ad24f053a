"""Figure 8: class activation maps of original, attacked and restored images."""

from tandem_defense import logs
from tandem_defense.evaluation import panels, plots
from tandem_defense.stages import show

with logs.capture(snakemake.log[0]):
    files, params = snakemake.input, snakemake.params
    shown = show.load(files, (params.classifier, files.classifier), params.spec)
    figure = panels.figure8(show.figure8_rows(shown), show.note(shown, params.labels))
    plots.save(figure, snakemake.output.pdf, snakemake.output.png)
