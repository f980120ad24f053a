"""Restore one chunk of images and classify the result at every read-out step."""

from tandem_defense import checkpoint, logs
from tandem_defense.stages import models, predict

with logs.capture(snakemake.log[0]), checkpoint.of(snakemake):
    cards, params, files = snakemake.wildcards, snakemake.params, snakemake.input
    attack = cards.get("attack", "clean")
    if attack == "clean":
        positions = models.chunk_positions(cards.scatteritem, params.images)
        chunk = predict.clean(files.images, positions)
    else:
        chunk = predict.attacked(files.images)
    classifiers = zip(params.classifiers.items(), files.classifiers, strict=True)
    predict.restore(
        chunk,
        {"dataset": params.dataset, "attack": attack, "defense": cards.defense},
        {name: (entry, weights) for (name, entry), weights in classifiers},
        params.entry,
        snakemake.output.rows,
        readouts=params.readouts,
        shown=params.shown,
        shown_output=snakemake.output.shown,
        seed=int(cards.seed),
        threads=snakemake.threads,
    )
