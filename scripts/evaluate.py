"""Classify one chunk of images undefended and through every feed-forward defense."""

from pathlib import Path

from tandem_defense import logs
from tandem_defense.stages import predict

with logs.capture(snakemake.log[0]):
    cards, params = snakemake.wildcards, snakemake.params
    weights = {Path(file).stem: file for file in snakemake.input.get("defenses", [])}
    predict.evaluate(
        predict.chunk(snakemake.input.images, cards.scatteritem, params.images),
        {"dataset": params.dataset, "classifier": cards.classifier, "attack": cards.attack},
        (params.classifier, snakemake.input.classifier),
        {name: (entry, weights.get(name)) for name, entry in params.defenses.items()},
        snakemake.output[0],
        seed=int(cards.seed),
        threads=snakemake.threads,
    )
