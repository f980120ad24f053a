"""Classify one chunk of images, clean and attacked, through every feed-forward defense."""

from pathlib import Path

from tandem_defense import logs
from tandem_defense.stages import models, predict

with logs.capture(snakemake.log[0]):
    cards, params, files = snakemake.wildcards, snakemake.params, snakemake.input
    positions = models.chunk_positions(cards.scatteritem, params.images)
    chunks = {"clean": predict.clean(files.images, positions)}
    attacked = zip(params.attacks, files.attacked, strict=True)
    chunks |= {attack: predict.attacked(file) for attack, file in attacked}
    weights = {Path(file).stem: file for file in files.get("defenses", [])}
    predict.evaluate(
        chunks,
        {"dataset": params.dataset, "classifier": cards.classifier},
        (params.classifier, files.classifier),
        {name: (entry, weights.get(name)) for name, entry in params.defenses.items()},
        snakemake.output[0],
        seed=int(cards.seed),
        threads=snakemake.threads,
    )
