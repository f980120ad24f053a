"""FUNN's Figure 2: DeepFool's examples against the classic autoencoder and against FUNN."""

from tandem_defense import cache, logs
from tandem_defense.evaluation import panels, plots

with logs.capture(snakemake.log[0]):
    spec, labels = snakemake.params.spec, snakemake.params.labels
    images = cache.read_images(snakemake.input.images)
    classic = cache.read_adversarial(snakemake.input.classic)
    funn = cache.read_adversarial(snakemake.input.funn)
    rows = panels.funn_rows(images, classic, funn, spec["images"])
    note = f"{labels[spec['attack']]} on {spec['dataset']}: the first {len(rows)} digits that both"
    note += " classifiers get right; the attacker sees the bare classifier"
    plots.save(panels.funn_figure2(rows, note), snakemake.output.pdf, snakemake.output.png)
