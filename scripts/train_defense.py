"""Train a defense, against a classifier where it needs one, and store its weights."""

from tandem_defense.startup import quick_start

with quick_start():
    from tandem_defense.pipeline import checkpoint, logs, train

with logs.capture(snakemake.log[0]), checkpoint.of(snakemake):
    entry = snakemake.params.classifier
    train.train(
        snakemake.params.entry,
        snakemake.input.images,
        snakemake.output[0],
        seed=int(snakemake.wildcards.seed),
        threads=snakemake.threads,
        classifier=(entry, snakemake.input.classifier) if entry else None,
    )
