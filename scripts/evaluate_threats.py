"""Judge one chunk of candidates of every threat by a defended classifier."""

from tandem_defense.startup import quick_start

with quick_start():
    from tandem_defense.pipeline import checkpoint, logs, threats

with logs.capture(snakemake.log[0]), checkpoint.of(snakemake):
    cards, params, files = snakemake.wildcards, snakemake.params, snakemake.input
    threats.judge(
        dict(zip(params.threats, zip(params.threats.values(), files.candidates), strict=True)),
        {"dataset": params.dataset, "classifier": cards.classifier, "defense": cards.defense},
        (params.classifier, files.classifier),
        (params.defense, files.defense or None),
        files.images,
        snakemake.output[0],
        count=params.images,
        scatteritem=cards.scatteritem,
        draws=params.draws,
        dynamic=params.dynamic,
        seed=int(cards.seed),
        threads=snakemake.threads,
    )
