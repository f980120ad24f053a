"""Every cell of every experiment, also of those that no table of the papers shows."""

from tandem_defense.startup import quick_start

with quick_start():
    import pandas as pd

    from tandem_defense.artifacts.overview import overview
    from tandem_defense.files import predictions
    from tandem_defense.pipeline import logs

with logs.capture(snakemake.log[0]):
    names, files = snakemake.params.experiments, snakemake.input
    parts = {
        name: overview(predictions.read(file, "gather_predictions"))
        for name, file in zip(names, files, strict=True)
    }
    whole = pd.concat(parts, names=["experiment"]).reset_index(level=0)
    whole.round(6).to_csv(snakemake.output[0], index=False)
