"""Attack one chunk of images and store the adversarial images with their success and norms."""

from tandem_defense.startup import quick_start

with quick_start():
    from tandem_defense.pipeline import checkpoint, logs
    from tandem_defense.pipeline.attack import attack

with logs.capture(snakemake.log[0]), checkpoint.of(snakemake):
    attack(
        snakemake.params.entry,
        (snakemake.params.classifier, snakemake.input.classifier),
        snakemake.input.images,
        snakemake.output[0],
        count=snakemake.params.images,
        scatteritem=snakemake.wildcards.scatteritem,
        seed=int(snakemake.wildcards.seed),
        threads=snakemake.threads,
    )
