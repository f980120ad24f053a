"""What the configuration will cost: jobs, optimizer steps, bytes, hours."""

from pathlib import Path

from tandem_defense.startup import quick_start

with quick_start():
    import pandas as pd

    from tandem_defense.artifacts import plan
    from tandem_defense.pipeline import logs

with logs.capture(snakemake.log[0]):
    table = plan.plan(snakemake.params.experiments, pd.read_csv(snakemake.input.benchmark))
    table.round(3).to_csv(snakemake.output.csv, index=False)
    text = plan.markdown(table)
    Path(snakemake.output.markdown).write_text(text)
    print(text)
