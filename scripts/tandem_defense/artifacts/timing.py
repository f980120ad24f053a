"""Where the time of a run went, from what Snakemake measured of every job."""

from pathlib import Path

from tandem_defense.extras import extra
from tandem_defense.files.tables import read_csv

with extra("pipeline"):
    import pandas as pd
    from tabulate import tabulate


COLUMNS = ["rule", "jobs", "seconds", "mean", "max", "memory_mb", "load", "share"]
FIRST_LOOKS, LATER_LOOKS = 15.5, 30.0  # seconds, of snakemake/benchmark.py


WITHOUT = "Delete it: the table is then without that job's time, and nothing else is lost."


def gather(folder: str | Path, *, omit: str = "") -> pd.DataFrame:
    """A row per rule, the costliest first, and a last one called ``all``.

    folder : holds Snakemake's benchmark files, `<rule>.tsv` or `<rule>/**/*.tsv`
    omit : a rule that is left out, such as the one that asks

    Columns: rule; jobs; seconds, mean, max (wall time of the jobs in seconds: their sum, mean and
    maximum); memory_mb (the largest job's resident memory in MiB); load (processor cores in use,
    mean over the time); share (of all jobs' seconds, 0 to 1). Memory and load are NaN where jobs
    were too short for Snakemake to measure them. There are no rows where there are no benchmark
    files: those of jobs in containers of their own do not come back.
    """
    folder = Path(folder)
    jobs = []
    for path in sorted(folder.rglob("*.tsv")):
        rule = path.relative_to(folder).with_suffix("").parts[0]
        if rule != omit:
            job = read_csv(path, WITHOUT, sep="\t", na_values=["-"])
            jobs.append(job.assign(rule=rule))
    if not jobs:
        return pd.DataFrame(columns=COLUMNS)
    jobs = pd.concat(jobs, ignore_index=True)
    # Snakemake looks at a job 31 times in the first 15 seconds, then every 30 seconds: the
    # processor time that it writes is that of its last look, not of the job's end.
    last_look = FIRST_LOOKS + LATER_LOOKS * ((jobs["s"] - FIRST_LOOKS) // LATER_LOOKS)
    jobs["measured"] = jobs["s"].where(jobs["s"] < FIRST_LOOKS, last_look)
    jobs["measured"] = jobs["measured"].where(jobs["cpu_time"].notna())
    whole = jobs.assign(rule="all")
    groups = pd.concat([jobs, whole]).groupby("rule", sort=False)
    table = groups.agg(
        jobs=("s", "size"),
        seconds=("s", "sum"),
        mean=("s", "mean"),
        max=("s", "max"),
        memory_mb=("max_rss", "max"),
    )
    table["load"] = groups["cpu_time"].sum(min_count=1) / groups["measured"].sum(min_count=1)
    table["share"] = table["seconds"] / jobs["s"].sum()
    costliest = table.drop("all").sort_values("seconds", ascending=False).index
    return table.loc[[*costliest, "all"]].reset_index()


def markdown(table: pd.DataFrame) -> str:
    """The table of :func:`gather` for a reader, under a line that says what its columns are."""
    rows = [
        (
            row["rule"],
            row["jobs"],
            *(f"{row[name]:.1f}" for name in ("seconds", "mean", "max")),
            *("" if pd.isna(row[name]) else f"{row[name]:{style}}" for name, style in STYLES),
        )
        for _, row in table.iterrows()
    ]
    if not rows:
        return "No job has left a benchmark file here.\n"
    head = ["Rule", "Jobs", "Seconds", "Mean", "Max", "Memory, MiB", "Cores in use", "Share"]
    align = ["left", *["right"] * 7]
    body = tabulate(rows, head, tablefmt="pipe", colalign=align, disable_numparse=True)
    return f"Wall time of the jobs per rule, in seconds.\n\n{body}\n"


STYLES = (("memory_mb", ".0f"), ("load", ".2f"), ("share", ".1%"))
