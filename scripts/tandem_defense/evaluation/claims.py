"""What the t-DIPs paper claims in words, judged by machine on numbers: its own or ours."""

from itertools import product
from typing import NamedTuple

import pandas as pd

from tandem_defense.evaluation.tables import display

STRONG = ("bim", "mifgsm")


class Check(NamedTuple):
    """One comparison: does it hold, how it reads, do the intervals lie apart (None: unknown)."""

    holds: bool
    text: str
    clear: bool | None = None


def check_claims(
    table1: pd.DataFrame,
    curves: pd.DataFrame | None = None,
    labels: dict | None = None,
    *,
    column: str = "accuracy",
    collapse: float = 0.25,
    late: int = 1000,
    hardly: float = 0.05,
) -> pd.DataFrame:
    """The claims of the t-DIPs paper's text: columns claim, holds, evidence.

    `table1` is ``tables.table1``'s frame, judged by `column` ('accuracy' or 'published'); `curves`
    is ``plots.curves``'s of Figure 6. Shares are compared as they stand; evidence names the cells
    that contradict and counts comparisons whose intervals overlap, which this many images cannot
    decide. `holds` is missing (NA) where there is nothing to judge by. The words that need a
    number: a defense collapses below `collapse` times its clean accuracy; iterations are late
    from `late` on; λ₁ hardly matters if accuracies differ by at most `hardly`.
    Raises ValueError for another column.
    """
    if column not in ("accuracy", "published"):
        raise ValueError(f"expected column 'accuracy' or 'published', got {column!r}")
    labels = labels or {}
    cells = _cells(table1, column)
    attacks = [attack for attack in table1["attack"].unique() if attack != "clean"]
    ours, hgd, comdefend = (display(labels, name) for name in ("tdips", "hgd", "comdefend"))

    def beats(other, over):
        return [
            _compare(cells[a], cells[b], f"{display(labels, net)} {display(labels, attack)}")
            for net, attack in product(table1["classifier"].unique(), over)
            if (a := (net, "tdips", attack)) in cells and (b := (net, other, attack)) in cells
        ]

    strong = " and ".join(display(labels, attack) for attack in STRONG)
    lines = _lines(curves)
    claims = {
        f"{ours} beats {hgd} on FGSM, BIM, MI-FGSM and C&W": beats(
            "hgd", ("fgsm", "bim", "mifgsm", "cw")
        ),
        f"{ours} beats {comdefend} on every attack": beats("comdefend", attacks),
        f"{ours} beats {comdefend} on clean images": beats("comdefend", ["clean"]),
        f"{hgd} collapses on strong attacks ({strong}: below {collapse:.0%} of clean)": _collapses(
            cells, labels, collapse
        ),
        "DIP alone defends (some iteration beats no defense)": _defends(lines, cells, labels),
        f"{ours} beats DIP at equal iterations": _outperforms(lines, labels),
        f"{ours} needs fewer iterations (λ₁ + λ₂ to DIP's best)": _faster(lines, labels),
        f"under {strong} accuracy rises, then falls": _rises_and_falls(lines, labels),
        f"in late iterations (from {late}) λ₁ hardly matters (≤ {hardly:.0%})": _alike(
            lines, labels, late, hardly
        ),
    }
    found = [(claim, *_verdict(checks)) for claim, checks in claims.items()]
    table = pd.DataFrame(found, columns=["claim", "holds", "evidence"])
    return table.astype({"holds": "boolean"})


def _cells(table1, column) -> dict:
    """(classifier, defense, attack) to (share, low, high); nothing where there is no share."""
    ends = ["low", "high"] if column == "accuracy" else [column, column]
    rows = table1[table1[column].notna()]
    keys = zip(rows["classifier"], rows["defense"], rows["attack"], strict=True)
    return dict(zip(keys, rows[[column, *ends]].itertuples(index=False, name=None), strict=True))


def _lines(curves) -> dict:
    """(attack, defense, λ₁) to its points, indexed by iteration in rising order."""
    if curves is None:
        return {}
    keys = ["attack", "defense", "first_iterations"]
    return {
        key: line.set_index("iteration").sort_index()
        for key, line in curves.groupby(keys, sort=False, observed=True)
    }


def _compare(a, b, where) -> Check:
    """Is share a above b? Each (share, low, high)."""
    (x, low, high), (y, other_low, other_high) = a, b
    known = (low, other_low) != (x, y) or (high, other_high) != (x, y)
    clear = low > other_high or high < other_low if known else None
    return Check(bool(x > y), f"{where}: {x:.1%} against {y:.1%}", clear)


def _point(line, iteration) -> tuple:
    """(share, low, high) of a curve at an iteration."""
    return tuple(line.loc[iteration, ["accuracy", "low", "high"]].astype(float))


def _pairs(lines) -> list:
    """(attack, λ₁, t-DIPs' curve, DIP's curve) for every t-DIPs curve."""
    return [
        (attack, first, line, lines[attack, "dip", 0])
        for (attack, defense, first), line in lines.items()
        if defense == "tdips" and (attack, "dip", 0) in lines
    ]


def _collapses(cells, labels, collapse) -> list[Check]:
    checks = []
    for (net, defense, attack), (share, *_) in cells.items():
        if defense == "hgd" and attack in STRONG and (net, "hgd", "clean") in cells:
            clean = cells[net, "hgd", "clean"][0]
            text = f"{display(labels, net)} {display(labels, attack)}: {share:.1%} of {clean:.1%}"
            checks.append(Check(share < collapse * clean, text))
    return checks


def _defends(lines, cells, labels) -> list[Check]:
    """DIP's best point against the undefended accuracy, the highest of the table's classifiers."""
    checks = []
    for (attack, defense, _), line in lines.items():
        bare = [cells[key] for key in cells if key[1:] == ("none", attack)]
        if defense == "dip":
            top = line["accuracy"].idxmax()
            where = f"{display(labels, attack)}, iteration {top}"
            checks.append(_compare(_point(line, top), max(bare, default=(0.0,) * 3), where))
    return checks


def _outperforms(lines, labels) -> list[Check]:
    checks = []
    for attack, first, line, dip in _pairs(lines):
        shared = line.index.intersection(dip.index)
        points = {i: _compare(_point(line, i), _point(dip, i), "") for i in shared}
        behind = [i for i, point in points.items() if not point.holds]
        text = f"{display(labels, attack)}, λ₁ = {first}: not ahead at {_ranges(behind, shared)}"
        text += f" ({len(behind)} of {len(shared)})"
        checks.append(Check(not behind, text, all(point.clear for point in points.values())))
    return checks


def _ranges(chosen, every) -> str:
    """Iterations as ranges of neighbours, '100–300, 1500'."""
    runs, position = [], {iteration: i for i, iteration in enumerate(every)}
    for iteration in chosen:
        if runs and position[iteration] == position[runs[-1][1]] + 1:
            runs[-1][1] = iteration
        else:
            runs.append([iteration, iteration])
    return ", ".join(str(a) if a == b else f"{a}–{b}" for a, b in runs)


def _faster(lines, labels) -> list[Check]:
    checks = []
    for attack, first, line, dip in _pairs(lines):
        slow, goal = dip["accuracy"].idxmax(), dip["accuracy"].max()
        there = line.index[line["accuracy"] >= goal]
        text = f"{display(labels, attack)}, λ₁ = {first}: DIP's best {goal:.1%} at {slow}, "
        text += f"reached at {first} + {there[0]}" if len(there) else "never reached"
        checks.append(Check(bool(len(there) and first + there[0] < slow), text))
    return checks


def _rises_and_falls(lines, labels) -> list[Check]:
    """The best point lies inside the curve: above the first and above the last."""
    checks = []
    for (attack, defense, first), line in lines.items():
        if attack in STRONG and defense == "tdips":
            top, ends = line["accuracy"].idxmax(), (line.index[0], line.index[-1])
            a, best, b = (_point(line, i) for i in (ends[0], top, ends[1]))
            text = f"{display(labels, attack)}, λ₁ = {first}: {a[0]:.1%}, best {best[0]:.1%} at "
            text += f"{top}, {b[0]:.1%} at {ends[1]}"
            both = [_compare(best, end, "") for end in (a, b)]
            checks.append(Check(all(c.holds for c in both), text, all(c.clear for c in both)))
    return checks


def _alike(lines, labels, late, hardly) -> list[Check]:
    checks = []
    for attack in dict.fromkeys(attack for attack, *_ in lines):
        ours = {key[2]: line for key, line in lines.items() if key[:2] == (attack, "tdips")}
        points = pd.DataFrame({first: line["accuracy"] for first, line in ours.items()})
        points = points[points.index >= late]
        if len(ours) > 1 and len(points):
            spread = points.max(axis=1) - points.min(axis=1)
            text = f"{display(labels, attack)}: {spread.max():.1%} apart at {spread.idxmax()}"
            checks.append(Check(bool(spread.max() <= hardly + 1e-9), text))
    return checks


def _verdict(checks) -> tuple:
    """(holds, evidence) of a claim from its checks."""
    if not checks:
        return pd.NA, "nothing to judge by"
    failed = [check.text for check in checks if not check.holds]
    evidence = f"contradicted by {len(failed)} of {len(checks)}: {'; '.join(failed)}"
    if not failed:
        evidence = f"holds in {len(checks)} of {len(checks)}"
    if unclear := sum(check.clear is False for check in checks):
        evidence += f"; intervals overlap in {unclear} of {len(checks)}"
    return not failed, evidence
