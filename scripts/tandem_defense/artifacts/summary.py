"""What came out, in about ten lines: the first thing that the report shows."""

from collections.abc import Iterable

from tandem_defense.artifacts.printing import counts
from tandem_defense.extras import extra

with extra("pipeline"):
    import pandas as pd
    from tabulate import tabulate

FEW = 4  # pairs of classifier and defense that have a line each; of more, a defense has a line
HEAD = ["", "images", "clean, %", "attacked, %", "ahead of no defense"]
NOTE = """\
Accuracy from the lowest to the highest over classifiers and attacks; ahead: in so many pairs of
classifier and attack. Restorations at their last read-out, with the smallest λ₁. † control."""


def summary(
    overview: pd.DataFrame, claims: Iterable[tuple[str, pd.DataFrame]], sheets: dict
) -> str:
    """reStructuredText: a line per defense with its lowest and highest accuracy, then the claims.

    overview : as ``tables/overview.csv``; of restorations the last read-out counts, with the
        smallest λ₁
    claims : experiment and frame of each table of the kinds ``claims`` and ``funn_claims``
    sheets : experiment to :class:`artifacts.base.Sheet`'s fields and ``label``
    """
    lines = [
        line
        for name, rows in overview.groupby("experiment", sort=False)
        for line in _lines(_last(rows), sheets[name])
    ]
    text = tabulate(lines, HEAD, tablefmt="rst", disable_numparse=True)
    said = [_verdict(sheets[name]["label"], frame) for name, frame in claims]
    return "\n\n".join([text, NOTE, *(line for line in said if line)]) + "\n"


def _last(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per classifier, defense and attack: a restoration's at its last read-out."""
    ordered = rows.sort_values(["iteration", "first_iterations"], ascending=[False, True])
    return ordered.drop_duplicates(["classifier", "defense", "attack"]).sort_index()


def _lines(rows: pd.DataFrame, sheet: dict) -> list[list[str]]:
    keys = ["classifier", "defense"]
    if len(rows[keys].drop_duplicates()) > FEW:
        keys = ["defense"]
    order = {name: i for i, name in enumerate([*sheet["classifiers"], *sheet["defenses"]])}
    rows = rows.sort_values(keys, key=lambda names: names.map(order), kind="stable")
    bare = rows[rows["defense"] == "none"].set_index(["classifier", "attack"])["accuracy"]
    lines = []
    for names, some in rows.groupby(keys, sort=False):
        labels = [sheet[f"{key}s"][name] for key, name in zip(keys, names, strict=True)]
        labels[-1] += " †" if names[-1] in sheet["controls"] else ""
        attacked = some[some["attack"] != "clean"]
        better = "–"
        if names[-1] != "none":
            own = attacked.set_index(["classifier", "attack"])["accuracy"]
            both = own.index.intersection(bare.index)
            better = f"{(own[both] > bare[both]).sum()} of {len(both)}"
        lines.append(
            [
                f"{sheet['label']}: {', '.join(labels)}",
                counts(some["n"]),
                _range(some[some["attack"] == "clean"]["accuracy"]),
                _range(attacked["accuracy"]),
                better,
            ]
        )
    return lines


def _range(shares: pd.Series) -> str:
    """'50–88', in %; one number where both are the same."""
    if shares.empty:
        return "–"
    ends = dict.fromkeys(f"{100 * share:.0f}" for share in (shares.min(), shares.max()))
    return "–".join(ends)


def _verdict(label: str, claims: pd.DataFrame) -> str:
    """How many of the paper's claims hold on what was measured, of those that can be judged."""
    judged = claims[(claims["numbers"] == "measured") & claims["holds"].notna()]
    if judged.empty:
        return ""
    holds = judged["holds"].astype(str).eq("True")
    text = f"{label}: of the paper's claims that can be judged on these numbers, {holds.sum()} of"
    text += f" {len(judged)} hold"
    if open_ := int(judged.get("decided", pd.Series(dtype=str)).astype(str).eq("False").sum()):
        text += f"; {open_} are undecided: within chance on so few images"
    return f"{text}."
