"""Every cell of every experiment, also of those that no table of the papers shows."""

import pandas as pd

from tandem_defense import logs, predictions
from tandem_defense.evaluation import tables

with logs.capture(snakemake.log[0]):
    names, files = snakemake.params.experiments, snakemake.input
    parts = {
        name: tables.overview(predictions.read(file, "gather_predictions"))
        for name, file in zip(names, files, strict=True)
    }
    whole = pd.concat(parts, names=["experiment"]).reset_index(level=0)
    whole.round(6).to_csv(snakemake.output[0], index=False)
