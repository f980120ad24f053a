"""Where the time of a run went: Snakemake's benchmark files in one table."""

from pathlib import Path

from tandem_defense.startup import quick_start

with quick_start():
    from tandem_defense.artifacts import timing as times
    from tandem_defense.pipeline import logs

with logs.capture(snakemake.log[0]):
    table = times.gather("benchmarks", omit=snakemake.rule)
    table.round(3).to_csv(snakemake.output.csv, index=False)
    Path(snakemake.output.markdown).write_text(times.markdown(table))
