"""Train a classifier and store its weights; its test accuracy goes into the log."""

from tandem_defense.startup import quick_start

with quick_start():
    from tandem_defense.pipeline import checkpoint, logs, train

with logs.capture(snakemake.log[0]), checkpoint.of(snakemake):
    train.train(
        snakemake.params.entry,
        snakemake.input.images,
        snakemake.output[0],
        seed=int(snakemake.wildcards.seed),
        threads=snakemake.threads,
        test=snakemake.input.test,
    )
