"""Attack one chunk of images as a threat does, and store its candidates at every ε."""

from tandem_defense.startup import quick_start

with quick_start():
    from tandem_defense.pipeline import checkpoint, logs, threats

with logs.capture(snakemake.log[0]), checkpoint.of(snakemake):
    params, files = snakemake.params, snakemake.input
    threats.attack(
        params.entry,
        (params.classifier, files.classifier),
        (params.defense, files.defense or None),
        {"test": files.images, "train": files.train},
        snakemake.output[0],
        count=params.images,
        scatteritem=snakemake.wildcards.scatteritem,
        seed=int(snakemake.wildcards.seed),
        threads=snakemake.threads,
    )
