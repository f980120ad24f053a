"""From prediction rows to rates: which rows a cell has, whether they are complete, their share.

A prediction row is one image × classifier × attack × defense × iteration × seed with the columns
of ``files/predictions.py`` (docs/results.md says what they mean).
"""

import numpy as np

from tandem_defense.evaluation.statistics import summarize
from tandem_defense.extras import extra
from tandem_defense.files.predictions import COLUMNS

with extra("pipeline"):
    import pandas as pd

CELL = ["dataset", "classifier", "defense", "attack"]


def correct(rows: pd.DataFrame) -> pd.Series:
    """Which inputs were classified correctly and not refused, bool per row."""
    return (rows["prediction"] == rows["label"]) & ~rows["rejected"].astype(bool)


def fooled(rows: pd.DataFrame) -> pd.Series:
    """Which inputs were classified wrongly and not refused, bool per row."""
    return (rows["prediction"] != rows["label"]) & ~rows["rejected"].astype(bool)


def majority(rows: pd.DataFrame, of: list[str]) -> pd.DataFrame:
    """Which images most seeds classify correctly: a row per classifier, attack and image.

    A column per value of the columns `of`, e.g. per defense; NA where there is no row. So n stays
    the number of images, however many seeds there are.
    """
    keys = ["classifier", "attack", "image", *of]
    share = correct(rows).groupby([rows[key] for key in keys], observed=True).mean()
    return (share > 0.5).astype("boolean").unstack(of)


def computed(predictions: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """Those of the wanted cells (columns ``CELL``) that have any row, in their order.

    An experiment may compute some cells only. Raises ValueError where it computes none of them.
    """
    _check_columns(predictions)
    known = predictions[CELL].drop_duplicates()
    some = cells.merge(known, on=CELL)
    if some.empty:
        asked, there = (
            "; ".join(f"{column} {', '.join(map(str, table[column].unique()))}" for column in CELL)
            for table in (cells, known)
        )
        raise ValueError(f"expected predictions of {asked}; there are only those of {there}")
    return some


def select(predictions: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """The prediction rows of the wanted cells (one per row of `cells`, columns as predictions').

    Every cell must hold every image once per seed, where images and seeds are all that occur in
    any wanted cell. Raises ValueError naming the first cell that does not, with what was found
    and what was expected, and ValueError where a column is absent.
    """
    _check_columns(predictions)
    keys = list(cells)
    rows = predictions.merge(cells, on=keys)
    images = rows["image"].nunique()
    counts = rows.groupby([*keys, "seed"], observed=True)["image"].agg(["size", "nunique"])
    seeds = pd.DataFrame({"seed": sorted(rows["seed"].unique())})
    wanted = cells.merge(seeds, how="cross") if len(seeds) else cells.assign(seed=-1)
    counts = wanted.merge(counts.reset_index(), on=[*keys, "seed"], how="left").fillna(
        {"size": 0, "nunique": 0}
    )
    whole = (counts["size"] == images) & (counts["nunique"] == images) & (counts["size"] > 0)
    if not whole.all():
        raise ValueError(_explain(predictions, rows, keys, counts[~whole].iloc[0]))
    return rows


def _check_columns(predictions: pd.DataFrame) -> None:
    if absent := [column for column in COLUMNS if column not in predictions]:
        raise ValueError(f"expected the prediction columns {COLUMNS}, lacking {absent}")


def _explain(predictions, rows, keys, cell) -> str:
    """The message for a cell whose rows are missing or duplicated."""
    here = rows[np.logical_and.reduce([rows[key] == cell[key] for key in [*keys, "seed"]])]
    every = sorted(rows["image"].unique())
    missing = sorted(set(every) - set(here["image"]))
    twice = sorted(here["image"][here["image"].duplicated()].unique())
    name = ", ".join(f"{key} {cell[key]}" for key in [*keys, "seed"] if cell[key] != -1)
    text = f"{name}: found {len(here)} rows, expected one for each of {len(every) or 'n'} images"
    for word, names in (("missing", missing), ("duplicated", twice)):
        if names:
            text += f"; {word}: {', '.join(map(str, names[:5]))}{', …' if len(names) > 5 else ''}"
    same = [key for key in CELL if key in keys]
    near = predictions[np.logical_and.reduce([predictions[key] == cell[key] for key in same])]
    steps = near[["first_iterations", "iteration"]].drop_duplicates().to_numpy().tolist()
    if here.empty and steps:
        text += f"; (first_iterations, iteration) there are {sorted(map(tuple, steps))[:20]}"
    return text


def rates(rows: pd.DataFrame, keys: list[str], hits: pd.Series) -> pd.DataFrame:
    """Per cell the share of rows with a hit: columns `keys`, n, rate, low, high, seeds.

    Over seeds as ``statistics.summarize`` says: Wilson's interval of one, median and range of more.
    """
    counts = hits.groupby([rows[key] for key in [*keys, "seed"]], observed=True)
    counts = counts.agg(["sum", "size"])
    shares = [
        (*cell, *summarize(group["sum"].to_numpy(), group["size"].to_numpy()))
        for cell, group in counts.groupby(level=keys, observed=True)
    ]
    return pd.DataFrame(shares, columns=[*keys, "n", "rate", "low", "high", "seeds"])


def noise_levels(rows: pd.DataFrame, keys: list[str], hits: pd.Series) -> pd.DataFrame:
    """Per cell the mean L2 of the rows with a hit, over seeds the median: `keys`, noise_level.

    Pixels in [0, 1]. A cell without any hit has no row.
    """
    noise = rows[hits].groupby([*keys, "seed"], observed=True)["l2"].mean()
    noise = noise.groupby(level=keys, observed=True).median()
    return noise.rename("noise_level").reset_index()
