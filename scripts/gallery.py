"""The gallery: pictures, tables and figures of all experiments in one page."""

from pathlib import Path

from tandem_defense.startup import quick_start

with quick_start():
    from tandem_defense.artifacts import gallery
    from tandem_defense.pipeline import logs

with logs.capture(snakemake.log[0]):
    params, files = snakemake.params, snakemake.input
    kept = {kind: list(zip(names, files[kind], strict=True)) for kind, names in params.of.items()}
    experiments = gallery.experiments(kept, params.entries, params.sheets)
    tables = gallery.tables(params.tables, files.tables, params.sheets)
    figures = gallery.figures(params.figures, files.figures, params.sheets)
    for file, room, beside in (
        (snakemake.output.page, gallery.ROOM, (tables, figures)),
        (snakemake.output.pictures, gallery.REPORT_ROOM, ([], [])),
    ):
        page = gallery.page(gallery.fitted(experiments, room), *beside)
        Path(file).write_text(page, encoding="utf-8")
