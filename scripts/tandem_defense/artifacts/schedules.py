"""What shorter schedules cost in accuracy and save in time (reproduction/schedules.py)."""

from tandem_defense.extras import extra

with extra("pipeline"):
    import pandas as pd


def compare(table: pd.DataFrame) -> pd.DataFrame:
    """What each run came to, a row per attack, run and number of steps (the index).

    Columns: images; stopped, by a stopping rule, and where it took their results (taken, median;
    nan: it stopped none); correct; probability, of the true class (mean); psnr, to the clean image
    (mean); seconds, of a core (median). Only photographs that all runs have under an attack, so
    that its rows are of the same; an attack that has none is left out.

    table : rows of schedules.csv
    """
    parts = []
    for _, rows in table.groupby("attack", sort=False):
        runs = rows.groupby("image")["run"].nunique()
        parts.append(rows[rows["image"].isin(runs.index[runs == rows["run"].nunique()])])
    shared = pd.concat(parts)
    shared = shared.assign(stopped=shared["stopped"].where(shared["stopped"] > 0))
    return shared.groupby(["attack", "run", "steps"], sort=False).agg(
        images=("image", "nunique"),
        taken=("stopped", "median"),
        stopped=("stopped", "count"),
        correct=("correct", "sum"),
        probability=("probability", "mean"),
        psnr=("psnr_clean", "mean"),
        seconds=("core_seconds", "median"),
    )


def alone(table: pd.DataFrame) -> float:
    """The share of rows that were measured on a machine without other work."""
    return float((table["load"] <= table["threads"]).mean())
