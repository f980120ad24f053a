"""The gallery: pictures, tables and figures of all experiments in one page."""

from pathlib import Path

from tandem_defense.artifacts import gallery
from tandem_defense.pipeline import logs

with logs.capture(snakemake.log[0]):
    params, files = snakemake.params, snakemake.input
    kept = {kind: list(zip(names, files[kind], strict=True)) for kind, names in params.of.items()}
    page = gallery.page(
        Path(files.template).read_text(encoding="utf-8"),
        gallery.experiments(kept, params.entries, params.sheets),
        gallery.tables(params.tables, files.tables, params.sheets),
        gallery.figures(params.figures, files.figures, params.sheets),
    )
    Path(snakemake.output[0]).write_text(page, encoding="utf-8")
