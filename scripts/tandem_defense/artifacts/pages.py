"""What the sections of docs/reproduction.md and its details have in common."""

from tandem_defense.extras import extra

with extra("pipeline"):
    import pandas as pd
    from tabulate import tabulate


def labels_of(config: dict, experiment: str) -> dict[str, str]:
    """What a reader sees for an experiment's names."""
    spec = config["experiments"][experiment]
    entries = [spec[section] for section in ("classifiers", "attacks", "defenses")]
    return {name: e.get("label", name) for part in entries for name, e in part.items()}


def as_percent(value: float) -> str:
    """A share in %, with two decimals."""
    return "–" if pd.isna(value) else f"{100 * value:.2f}"


def as_noise(value: float) -> str:
    """A noise level, with three digits."""
    return "–" if pd.isna(value) else f"{value:.3g}"


def as_table(head: list[str], rows: list, left: int) -> str:
    """A pipe table, its first `left` columns and a last one called why aligned to the left."""
    align = ["left" if i < left else "right" for i in range(len(head))]
    if head[-1] == "why":
        align[-1] = "left"
    return tabulate(rows, head, tablefmt="pipe", colalign=align, disable_numparse=True) + "\n"
