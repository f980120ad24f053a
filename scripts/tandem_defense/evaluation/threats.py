"""From judged candidates to accuracy per threat, the worst case per image, and signs of failure.

A row is one image × classifier × defense × threat × ε × draw, with the columns of
``files/judgments.py``. docs/threats.md explains every sign.
"""

from tandem_defense.evaluation.rates import correct
from tandem_defense.evaluation.statistics import summarize, wilson
from tandem_defense.extras import extra

with extra("pipeline"):
    import numpy as np
    import pandas as pd

CELL = ["dataset", "classifier", "defense", "threat", "attack", "epsilon"]
DEFENDED = CELL[:3]
COLUMNS = [*CELL, "n", "seeds", "accuracy", "low", "high", "signs"]
WORST, CLEAN = "worst", "clean"

EOT = 20  # draws per step that AutoAttack averages of a random defense
SHARE = 0.1  # of the images, above which unstable, incomplete and failed to transfer are signs
UNCONSTRAINED = 0.5  # an ε that takes every pixel to gray: nothing is classified correctly
SLACK = 1e-6  # by which float32 may exceed ε

SIGNS = (
    "randomized",
    "dynamic",
    "zero_gradients",
    "unavailable_gradients",
    "unstable_predictions",
    "silent_success",
    "incomplete_optimization",
    "transfer_failure",
    "query_better",
    "unconstrained_failure",
)


def per_image(rows: pd.DataFrame, vote: str = "mean") -> pd.DataFrame:
    """A row per cell, seed and image: ``correct`` in [0, 1] over the draws, and the attack's flags.

    vote : ``mean``, the share of draws that classify correctly; ``majority``, 1 where more than
        half of them do
    """
    keys = [*CELL, "seed", "image"]
    marked = rows.assign(correct=correct(rows).astype(float))
    groups = marked.groupby(keys, observed=True, sort=False)
    last = ["deceived", "zero_gradient", "no_gradient", "silent", "incomplete"]
    last += ["linf", "gradients", "samples", "random", "dynamic"]
    table = groups[last].first()
    table["correct"] = groups["correct"].mean()
    table["unstable"] = groups["prediction"].nunique() > 1
    table["spread"] = groups["loss"].max() - groups["loss"].min()
    table["draws"] = groups["draw"].nunique()
    if vote == "majority":
        table["correct"] = (table["correct"] > 0.5).astype(float)
    return table.reset_index()


def worst(images: pd.DataFrame, epsilon: float) -> pd.DataFrame:
    """Per defended classifier, seed and image the least ``correct`` of all that ε allows.

    Every candidate counts whose realized L∞ norm is at most ε, the clean image too: so the worst
    case never rises with ε, and is at most the accuracy under any one threat.
    """
    allowed = images[images["linf"] <= epsilon + SLACK]
    keys = [*DEFENDED, "seed", "image"]
    least = allowed.groupby(keys, observed=True, sort=False)
    least = least.agg({"correct": "min", "draws": "max"}).reset_index()
    return least.assign(threat=WORST, attack="all", epsilon=epsilon)


def within(images: pd.DataFrame, epsilon: float) -> pd.DataFrame:
    """Threats without an ε, held to one: the image itself where a candidate is farther away."""
    keys = [*DEFENDED, "seed", "image"]
    clean = images.loc[images["threat"] == CLEAN, [*keys, "correct"]]
    free = images[(images["epsilon"] == 0) & (images["threat"] != CLEAN)]
    free = free.merge(clean.rename(columns={"correct": "clean"}), on=keys, how="left")
    used = free["correct"].where(free["linf"] <= epsilon + SLACK, free["clean"])
    return free.drop(columns="clean").assign(epsilon=epsilon, correct=used)


def robustness(rows: pd.DataFrame, vote: str = "mean") -> pd.DataFrame:
    """Accuracy of every defended classifier under every threat and in the worst case, per ε.

    Columns ``COLUMNS``: n images of one run seed; ``seeds``, how many seeds judged each of them;
    accuracy over all images with Wilson's 95 % interval (over several run seeds median and range);
    ``signs`` of a failed attack, separated by spaces. Clean images are the threat ``clean`` at ε 0.
    A threat without an ε is at ε 0 as it is, and at every other :func:`within` that. Signs of
    ``worst`` are those of the strongest threat behind it.
    """
    images = per_image(rows, vote)
    bounds = sorted(images["epsilon"][images["epsilon"] > 0].unique())
    cells = [how(images, epsilon) for epsilon in bounds for how in (within, worst)]
    table = _shares(pd.concat([images, *cells], ignore_index=True))
    found = signs(images, _shares(images))
    made = [found.get(tuple(cell)) for cell in table[CELL].to_numpy()]
    held = [found.get((*cell[:-1], 0.0)) for cell in table[CELL].to_numpy()]
    table["signs"] = [" ".join(own or free or ()) for own, free in zip(made, held, strict=True)]
    own, free = ([signs is not None for signs in parts] for parts in (made, held))
    searched = table.assign(own=own)[np.logical_or(own, free)]
    for i in table.index[table["threat"] == WORST]:
        table.loc[i, "signs"] = _strongest(searched, table.loc[i])
    return table[COLUMNS]


def _shares(images: pd.DataFrame) -> pd.DataFrame:
    lines = []
    for cell, group in images.groupby(CELL, observed=True, sort=False):
        by_seed = group.groupby("seed")["correct"].agg(["sum", "size"])
        total, count = by_seed["sum"].to_numpy(), by_seed["size"].to_numpy()
        rate = summarize(total, count)
        low, high = rate.low, rate.high
        if len(total) == 1:  # draws make halves and thirds of a success
            low, high = wilson(round(total[0]), int(count[0]))
        seeds = int(group["draws"].max()) * len(total)
        lines.append((*cell, rate.n, seeds, rate.rate, low, high))
    return pd.DataFrame(lines, columns=COLUMNS[:-1])


def _strongest(searched: pd.DataFrame, row: pd.Series) -> str:
    """The signs of the threat behind a worst case: the one with the least accuracy within its ε.

    Of several one that had an ε, at the largest, where it may have failed as it did not at a
    smaller one, and there the one with the fewest signs: it shows as much without them.
    """
    same = (searched[DEFENDED] == row[DEFENDED]).all(axis=1)
    rivals = searched[same & (searched["epsilon"] > 0) & (searched["epsilon"] <= row["epsilon"])]
    if rivals.empty:
        return ""
    order = rivals.assign(count=rivals["signs"].str.split().str.len())
    by = {"accuracy": True, "own": False, "epsilon": False, "count": True}
    return order.sort_values(list(by), ascending=list(by.values())).iloc[0]["signs"]


def signs(images: pd.DataFrame, table: pd.DataFrame) -> dict[tuple, list[str]]:
    """Which signs of a failed attack every cell of `images` shows, by its ``CELL``.

    images : :func:`per_image`'s; table : accuracy per cell
    """
    accuracy = {tuple(r[:6]): r[6] for r in table[[*CELL, "accuracy"]].to_numpy()}
    varied = images[images["random"]].groupby(DEFENDED, observed=True)["spread"].max()
    random = {key for key, spread in varied.items() if spread > 1e-6}
    found = {}
    for cell, group in images.groupby(CELL, observed=True, sort=False):
        if not group["samples"].max():  # clean images and noise: nothing was searched
            continue
        named = dict(zip(CELL, cell, strict=True))
        defended = tuple(cell[:3])
        right = group["correct"] > 0.5
        moved = group[group["deceived"]]
        at = {c: a for c, a in accuracy.items() if c[:3] == defended and c[3] != WORST}
        queries = _accuracies(images, at, named["epsilon"])
        last = max(c[5] for c in at if c[3] == named["threat"])
        end = accuracy[(*cell[:5], last)]
        gradients = bool(group["gradients"].all())
        checks = {
            "randomized": defended in random and group["samples"].max() < EOT,
            "dynamic": group["dynamic"].any(),
            "zero_gradients": gradients and (group["zero_gradient"] & right).any(),
            "unavailable_gradients": gradients and group["no_gradient"].any(),
            "unstable_predictions": defended in random and group["unstable"].mean() > SHARE,
            "silent_success": (group["silent"] & right).any(),
            "incomplete_optimization": (group["incomplete"] & right).mean() > SHARE,
            "transfer_failure": len(moved) and (moved["correct"] > 0.5).mean() > SHARE,
            "query_better": gradients and min(queries, default=1) < accuracy[tuple(cell)],
            "unconstrained_failure": gradients and last >= UNCONSTRAINED and end > 0,
        }
        found[tuple(cell)] = [name for name in SIGNS if checks[name]]
    return found


def _accuracies(images: pd.DataFrame, at: dict[tuple, float], epsilon: float) -> list[float]:
    """Accuracies of one defended classifier under the threats without gradients, at ε."""
    blind = images[~images["gradients"] & (images["threat"] != CLEAN)]
    names = set(blind["threat"])
    return [a for cell, a in at.items() if cell[3] in names and cell[5] == epsilon]
