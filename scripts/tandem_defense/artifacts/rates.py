"""What success rates are made of: when and where every image falls (reproduction/funn_rates.py)."""

from pathlib import Path

from tandem_defense.artifacts import style
from tandem_defense.evaluation.statistics import wilson
from tandem_defense.extras import extra

with extra("pipeline"):
    import pandas as pd
    import seaborn as sns
    from matplotlib.figure import Figure

RULES = {"Foolbox 1": "-", "Foolbox 3": (0, (4, 2))}
NORMS = ("L2", "L∞")
STEPS, EARLY = 2000, 50  # of a walk of DeepFool, and of the paper's
TICKS = (1, 10, 50, 200, 1000)
# Which ε an attack with a bound tries, in rising order.
BUDGETS = {
    "PGD L2": (0.25, 0.5, 0.75, 1, 1.25, 1.5, 2, 2.5, 3),
    "PGD L∞": (0.02, 0.05, 0.075, 0.1, 0.125, 0.15, 0.2, 0.3),
    "AutoAttack L2": (0.5, 1, 1.5),
    "AutoAttack L∞": (0.05, 0.1, 0.2),
}


def fallen(rows: pd.DataFrame, column: str, limit: float) -> float:
    """The share of images, those of all seeds together, whose `column` is at most `limit`."""
    return float((rows[column] <= limit).mean())


def groups(table: pd.DataFrame, attack: str) -> dict[str, pd.DataFrame]:
    """The rows of an attack by setting."""
    rows = table[table["attack"] == attack]
    return {name: part for name, part in rows.groupby("setting", sort=False)}


def standing(table: pd.DataFrame, setting: str, norm: str) -> pd.DataFrame:
    """The images that the paper's 50 steps of Foolbox 1's DeepFool do not fool.

    Columns margin, which these steps leave, and distance, the smallest ε at which PGD fools.
    """
    keys = ["seed", "image"]
    walked = groups(table, f"DeepFool {norm}, Foolbox 1")[setting]
    left = walked[~(walked["step"] <= EARLY)]
    tried = groups(table, f"PGD {norm}")[setting]
    return left[[*keys, "margin"]].merge(tried[[*keys, "distance"]], on=keys)


def autoattack(table: pd.DataFrame) -> pd.DataFrame:
    """What AutoAttack leaves within each ε that it tried.

    Index (setting, norm, ε). Columns n, its images; left, the share that still is classified
    correctly, low, high, the 95 % interval; pgd, what PGD leaves of these.
    """
    lines = {}
    for name, network in table.groupby("setting", sort=False):
        attacks = dict(list(network.groupby("attack")))
        for norm in (n for n in NORMS if f"AutoAttack {n}" in attacks):
            rows, tried = attacks[f"AutoAttack {norm}"], attacks[f"PGD {norm}"]
            same = rows[["seed", "image"]].merge(tried, on=["seed", "image"])
            for epsilon in BUDGETS[f"AutoAttack {norm}"]:
                left = 1 - fallen(rows, "distance", epsilon)
                low, high = wilson(round(left * len(rows)), len(rows))
                pgd = 1 - fallen(same, "distance", epsilon)
                lines[name, norm, epsilon] = (len(rows), left, low, high, pgd)
    columns = ["n", "left", "low", "high", "pgd"]
    return pd.DataFrame.from_dict(lines, orient="index", columns=columns)


def draw(table: pd.DataFrame) -> Figure:
    """Per norm: success against steps, success against distance, and accuracy against ε.

    table : rows of funn_rates.csv; of AutoAttack's, which are of fewer images and would be compared
        with PGD of others, `autoattack` makes a table
    """
    colors = dict(zip(table["setting"].unique(), sns.color_palette("colorblind"), strict=False))
    drawing = Figure(figsize=(6.9, 4.2), layout="constrained")
    axes = drawing.subplots(2, 3, sharey=True)
    for norm, (steps, distance, budget) in zip(NORMS, axes, strict=True):
        for rule, dash in RULES.items():
            for name, rows in groups(table, f"DeepFool {norm}, {rule}").items():
                look = {"color": colors[name], "linestyle": dash, "drawstyle": "steps-post"}
                for ax, column, last in ((steps, "step", STEPS), (distance, "distance", None)):
                    at = rows[column].dropna().sort_values().astype(float).tolist()
                    share = [(i + 1) / len(rows) for i in range(len(at))]
                    end = [last] if last else []
                    ax.plot([*at, *end], [*share, *share[-1:] * len(end)], **look)
        for name, rows in groups(table, f"PGD {norm}").items():
            tried = BUDGETS[f"PGD {norm}"]
            left = [1 - fallen(rows, "distance", epsilon) for epsilon in tried]
            budget.plot([0, *tried], [1, *left], color=colors[name], marker=".")
        steps.axvline(EARLY, color=style.GRAY, linewidth=0.6, linestyle=":")
        steps.set(xscale="log", xlim=(1, STEPS), ylabel=f"{norm}: share of images")
        steps.set_xticks(TICKS, TICKS, minor=False)
        steps.set_xticks([], minor=True)
        distance.set_xlim(left=0)
        budget.set_xlim(left=0)
    axes[0, 0].set_title("DeepFool: fooled by steps")
    axes[0, 1].set_title("DeepFool: fooled by distance")
    axes[0, 2].set_title("PGD: still correct within ε")
    axes[1, 0].set_xlabel("steps")
    for norm, (_, distance, budget) in zip(NORMS, axes, strict=True):
        distance.set_xlabel(f"{norm} of the perturbation")
        budget.set_xlabel(f"{norm} bound ε")
    handles = [axes[0, 0].plot([], [], color=color)[0] for color in colors.values()]
    handles += [
        axes[0, 0].plot([], [], color=style.GRAY, linestyle=dash)[0] for dash in RULES.values()
    ]
    labels = [*colors, *(f"DeepFool as in {rule}" for rule in RULES)]
    drawing.legend(handles, labels, loc="outside lower center", ncol=3, frameon=False)
    sns.despine(drawing)
    return drawing


def save(table: pd.DataFrame, file: Path) -> None:
    """Write the figure."""
    with style.style():
        style.save(draw(table), file)
