"""The pages that say what reproduces, from the committed measurements."""

from pathlib import Path

from tandem_defense.startup import quick_start

with quick_start():
    from tandem_defense.artifacts import reproduction
    from tandem_defense.pipeline import logs

with logs.capture(snakemake.log[0]):
    folder = Path(snakemake.input.texts[0]).parent
    Path(snakemake.output.page).write_text(reproduction.page(folder), encoding="utf-8")
    Path(snakemake.output.details).write_text(reproduction.details(folder), encoding="utf-8")
