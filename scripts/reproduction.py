"""The page that says what reproduces, from the committed measurements."""

from pathlib import Path

from tandem_defense.artifacts import reproduction
from tandem_defense.pipeline import logs

with logs.capture(snakemake.log[0]):
    text = reproduction.page(Path(snakemake.input.texts[0]).parent)
    Path(snakemake.output[0]).write_text(text)
