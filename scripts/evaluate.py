"""Classify one chunk of images, clean and attacked, through every feed-forward defense."""

from pathlib import Path

from tandem_defense.startup import quick_start

with quick_start():
    from tandem_defense.pipeline import logs, rows
    from tandem_defense.pipeline.chunks import chunk_positions
    from tandem_defense.pipeline.evaluate import evaluate

with logs.capture(snakemake.log[0]):
    cards, params, files = snakemake.wildcards, snakemake.params, snakemake.input
    positions = chunk_positions(cards.scatteritem, params.images)
    chunks = {"clean": rows.clean(files.images, positions)}
    attacked = zip(params.attacks, files.attacked, strict=True)
    chunks |= {attack: rows.attacked(file) for attack, file in attacked}
    weights = {Path(file).stem: file for file in files.get("defenses", [])}
    evaluate(
        chunks,
        {"dataset": params.dataset, "classifier": cards.classifier},
        (params.classifier, files.classifier),
        {name: (entry, weights.get(name)) for name, entry in params.defenses.items()},
        snakemake.output[0],
        only=params.only,
        seed=int(cards.seed),
        threads=snakemake.threads,
    )
