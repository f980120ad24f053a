"""What came out, in about ten lines, for the report's first page."""

from pathlib import Path

import pandas as pd

from tandem_defense.artifacts.summary import summary
from tandem_defense.pipeline import logs

with logs.capture(snakemake.log[0]):
    files = snakemake.input
    text = summary(
        pd.read_csv(files.overview),
        zip(snakemake.params.claims, map(pd.read_csv, files.claims), strict=True),
        snakemake.params.sheets,
    )
    Path(snakemake.output[0]).write_text(text, encoding="utf-8")
