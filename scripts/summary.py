"""What came out, in about ten lines, for the report's first page."""

from pathlib import Path

from tandem_defense.startup import quick_start

with quick_start():
    from tandem_defense.artifacts.summary import summary
    from tandem_defense.files.tables import read_csv
    from tandem_defense.pipeline import logs

with logs.capture(snakemake.log[0]):
    files = snakemake.input
    text = summary(
        read_csv(files.overview),
        zip(snakemake.params.claims, map(read_csv, files.claims), strict=True),
        snakemake.params.sheets,
    )
    Path(snakemake.output[0]).write_text(text, encoding="utf-8")
