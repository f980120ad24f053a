"""Where the time of a run went: Snakemake's benchmark files in one table."""

from pathlib import Path

from tandem_defense import logs
from tandem_defense.evaluation import times

with logs.capture(snakemake.log[0]):
    table = times.gather("benchmarks", omit=snakemake.rule)
    table.round(3).to_csv(snakemake.output.csv, index=False)
    Path(snakemake.output.markdown).write_text(times.markdown(table))
