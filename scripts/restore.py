"""Restore one chunk of images and classify the result at every read-out step."""

from tandem_defense import logs
from tandem_defense.stages import predict

with logs.capture(snakemake.log[0]):
    cards, params = snakemake.wildcards, snakemake.params
    attack = cards.get("attack", "clean")
    files = [snakemake.input.classifiers]
    files = files if attack != "clean" else snakemake.input.classifiers
    predict.restore(
        predict.chunk(snakemake.input.images, cards.scatteritem, params.images),
        {"dataset": params.dataset, "attack": attack, "defense": cards.defense},
        dict(zip(params.classifiers, zip(params.classifiers.values(), files), strict=True)),
        params.entry,
        snakemake.output.rows,
        readouts=params.readouts,
        shown=params.shown,
        shown_output=snakemake.output.shown,
        seed=int(cards.seed),
        threads=snakemake.threads,
    )
