"""Restore one chunk of images and classify the result at every read-out step."""

from tandem_defense.startup import quick_start

with quick_start():
    from tandem_defense.pipeline import checkpoint, logs, rows
    from tandem_defense.pipeline.chunks import chunk_positions
    from tandem_defense.pipeline.restore import restore

with logs.capture(snakemake.log[0]), checkpoint.of(snakemake):
    cards, params, files = snakemake.wildcards, snakemake.params, snakemake.input
    attack = cards.get("attack", "clean")
    positions = chunk_positions(cards.scatteritem, params.images)
    clean = attack == "clean"
    classifiers = [files.classifiers] if isinstance(files.classifiers, str) else files.classifiers
    restore(
        rows.clean(files.images, positions) if clean else rows.attacked(files.images),
        {"dataset": params.dataset, "attack": attack, "defense": cards.defense},
        {
            name: (entry, weights)
            for (name, entry), weights in zip(params.classifiers.items(), classifiers, strict=True)
        },
        params.entry,
        snakemake.output.rows,
        readouts=params.readouts,
        keep=params.keep,
        shown_output=snakemake.output.shown,
        seed=int(cards.seed),
        threads=snakemake.threads,
    )
