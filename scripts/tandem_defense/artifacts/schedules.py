"""What shorter schedules cost in accuracy and save in time (reproduction/schedules.py)."""

from tandem_defense.extras import extra

with extra("pipeline"):
    import pandas as pd


def compare(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Attack to a frame of texts, a line per run and its number of steps.

    Only photographs that all runs have under an attack, so that a column's lines are of the same;
    an attack that has none is left out.

    table : rows of schedules.csv
    """
    tables = {}
    for attack, rows in table.groupby("attack", sort=False):
        runs = rows.groupby("image")["run"].nunique()
        shared = rows[rows["image"].isin(runs.index[runs == rows["run"].nunique()])]
        lines = [
            {"run": run, "steps": steps} | _line(some)
            for (run, steps), some in shared.groupby(["run", "steps"], sort=False)
        ]
        if lines:
            tables[attack] = pd.DataFrame(lines)
    return tables


def _line(rows: pd.DataFrame) -> dict[str, str]:
    stopped = rows["stopped"][rows["stopped"] > 0]
    return {
        "taken at, median": f"{stopped.median():.0f}" if len(stopped) else "–",
        "correct": f"{rows['correct'].sum()} of {len(rows)}",
        "probability of the true class": f"{rows['probability'].mean():.3f}",
        "PSNR to the clean image, dB": f"{rows['psnr_clean'].mean():.1f}",
        "core-seconds, median": f"{rows['core_seconds'].median():.0f}",
    }


def alone(table: pd.DataFrame) -> float:
    """The share of rows that were measured on a machine without other work."""
    return float((table["load"] <= table["threads"]).mean())
