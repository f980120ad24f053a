"""What the t-DIPs paper claims in words, judged by machine on numbers: its own and ours."""

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

from tandem_defense.artifacts.accuracy import Accuracy
from tandem_defense.artifacts.base import Inputs, Sheet
from tandem_defense.artifacts.curve import Curve
from tandem_defense.artifacts.printing import Grid, Marks
from tandem_defense.extras import extra
from tandem_defense.settings import (
    AttackNames,
    ClassifierName,
    Count,
    DefenseName,
    PriorName,
    Steps,
    TandemName,
)

with extra("pipeline"):
    import pandas as pd

# The paper's words that need a number.
COLLAPSE = 0.25  # a defense collapses below this share of its clean accuracy
HARDLY = 0.05  # λ₁ hardly matters if accuracies differ by at most this
STRONG = ("bim", "mifgsm")  # attacks, where the experiment calls them so


class Check(NamedTuple):
    """One comparison: does it hold, how it reads, do the intervals lie apart (None: unknown)."""

    holds: bool
    text: str
    clear: bool | None = None


class Claims(Accuracy):
    """The claims of the paper's text: what holds in print, and what holds here.

    tdips, dip, hgd, comdefend : which of the experiment's defenses play these parts
    curve_classifier, curve_attacks, curve_first_iterations, last, every : the curves of Figure 6
        (see :class:`Curve`), for the claims about iterations
    strong : the attacks that the paper calls strong

    The other settings choose the cells of Table 1, as those of an accuracy table do.
    """

    tdips: TandemName
    dip: PriorName | None = None
    hgd: DefenseName | None = None
    comdefend: DefenseName | None = None
    strong: AttackNames = STRONG
    curve_classifier: ClassifierName | None = None
    curve_attacks: AttackNames | None = None
    curve_first_iterations: Steps | None = None
    last: Count | None = None
    every: Count | None = None

    CONDITIONS = {"every <= last": "read-outs are every so many iterations, up to the last"}
    # All of what the curves need, or none of it.
    ONLY_IF = {
        "curve_classifier": "curve_attacks is not None",
        "curve_attacks": "last is not None",
        "last": "every is not None",
        "every": "dip is not None and curve_classifier is not None",
        "curve_first_iterations": "curve_classifier is not None",
    }

    def frame(self, inputs: Inputs, sheet: Sheet) -> pd.DataFrame:
        """Columns numbers (published, measured), claim, holds (NA: nothing to judge by), evidence.

        Shares are compared as they stand; evidence names the cells that contradict and counts
        comparisons whose intervals overlap, which this many images cannot decide.
        """
        table, curves = super().frame(inputs, sheet), None
        if self.dip and self.curve_classifier and self.curve_attacks and self.last and self.every:
            curves = Curve(
                experiment=self.experiment,
                classifier=self.curve_classifier,
                attacks=self.curve_attacks,
                defenses=(self.dip, self.tdips),
                iterations=self.last,
                every=self.every,
                first_iterations=self.curve_first_iterations,
            ).frame(inputs.predictions, sheet)
        printed = inputs.published("accuracy")
        parts = {"measured": self.judge(table, sheet, curves)}
        if printed is not None:
            printed = printed.assign(low=printed["accuracy"], high=printed["accuracy"])
            parts = {"published": self.judge(printed, sheet)} | parts
        return pd.concat(parts, names=["numbers"]).reset_index(level=0)

    def judge(
        self, table: pd.DataFrame, sheet: Sheet, curves: pd.DataFrame | None = None
    ) -> pd.DataFrame:
        """The claims on one table of accuracies (columns of Table 1) and Figure 6's points."""
        cells, lines = _cells(table), _lines(curves)
        label = sheet.classifiers | sheet.attacks
        defenses = {name: sheet.defenses.get(name, name) for name in {*table["defense"]}}
        ours = sheet.defenses[self.tdips]
        attacks = [attack for attack in table["attack"].unique() if attack != "clean"]

        def beats(other: str | None, over: Sequence[str]) -> list[Check]:
            return [
                _compare(cells[a], cells[b], f"{label.get(net, net)} {label.get(attack, attack)}")
                for net, attack in product(table["classifier"].unique(), over)
                if (a := (net, self.tdips, attack)) in cells
                and (b := (net, other, attack)) in cells
            ]

        hgd, comdefend = (
            defenses.get(name) or sheet.defenses.get(name, shown)
            for name, shown in ((self.hgd, "HGD"), (self.comdefend, "ComDefend"))
        )
        strong = [attack for attack in self.strong if attack in label]
        words = " and ".join(label[attack] for attack in strong) or "BIM and MI-FGSM"
        late = self.iterations or 1000
        claims = {
            f"{ours} beats {hgd} on FGSM, BIM, MI-FGSM and C&W": beats(
                self.hgd, ("fgsm", "bim", "mifgsm", "cw")
            ),
            f"{ours} beats {comdefend} on every attack": beats(self.comdefend, attacks),
            f"{ours} beats {comdefend} on clean images": beats(self.comdefend, ["clean"]),
            f"{hgd} collapses on strong attacks ({words}: below {COLLAPSE:.0%} of clean)": (
                self._collapses(cells, label)
            ),
            "DIP alone defends (some iteration beats no defense)": self._defends(
                lines, cells, label
            ),
            f"{ours} beats DIP at equal iterations": self._outperforms(lines, label),
            f"{ours} needs fewer iterations (λ₁ + λ₂ to DIP's best)": self._faster(lines, label),
            f"under {words} accuracy rises, then falls": self._rises_and_falls(lines, label),
            f"in late iterations (from {late}) λ₁ hardly matters (≤ {HARDLY:.0%})": self._alike(
                lines, label, late
            ),
        }
        verdicts = [(claim, *_verdict(checks)) for claim, checks in claims.items()]
        frame = pd.DataFrame(verdicts, columns=["claim", "holds", "evidence"])
        return frame.astype({"holds": "boolean"})

    def grid(self, table: pd.DataFrame, sheet: Sheet, marks: Marks) -> Grid:
        """A row per claim: does it hold in print, does it hold here, and why."""
        words = {True: "yes", False: "no"}
        rows: dict[str, list[str]] = {}
        for row in table.itertuples():
            line = rows.setdefault(row.claim, [marks.text(row.claim), "–", "–", "–"])
            at = 1 if row.numbers == "published" else 2
            line[at] = "–" if pd.isna(row.holds) else words[bool(row.holds)]
            if at == 2:
                line[3] = marks.text(row.evidence)
        caption = (
            f"{sheet.dataset}: the paper's claims, judged on its own numbers and on the measured"
            " ones; oblivious attacker."
        )
        heads = ["in print", "measured", "evidence here"]
        return Grid("Claim", heads, {"": list(rows.values())}, caption)

    def _pairs(self, lines: dict) -> list:
        """(attack, λ₁, t-DIPs' curve, DIP's curve) for every t-DIPs curve."""
        return [
            (attack, first, line, lines[attack, self.dip, 0])
            for (attack, defense, first), line in lines.items()
            if defense == self.tdips and (attack, self.dip, 0) in lines
        ]

    def _collapses(self, cells, label) -> list[Check]:
        checks = []
        for (net, defense, attack), (share, *_) in cells.items():
            if defense == self.hgd and attack in self.strong and (net, self.hgd, "clean") in cells:
                clean = cells[net, self.hgd, "clean"][0]
                text = (
                    f"{label.get(net, net)} {label.get(attack, attack)}: {share:.1%} of {clean:.1%}"
                )
                checks.append(Check(share < COLLAPSE * clean, text))
        return checks

    def _defends(self, lines, cells, label) -> list[Check]:
        """DIP's best point against the undefended accuracy, the highest of the classifiers'."""
        checks = []
        for (attack, defense, _), line in lines.items():
            bare = [cells[key] for key in cells if key[1:] == ("none", attack)]
            if defense == self.dip:
                top = line["accuracy"].idxmax()
                place = f"{label.get(attack, attack)}, iteration {top}"
                checks.append(_compare(_point(line, top), max(bare, default=(0.0,) * 3), place))
        return checks

    def _outperforms(self, lines, label) -> list[Check]:
        checks = []
        for attack, first, line, dip in self._pairs(lines):
            shared = line.index.intersection(dip.index)
            points = {i: _compare(_point(line, i), _point(dip, i), "") for i in shared}
            behind = [i for i, point in points.items() if not point.holds]
            text = (
                f"{label.get(attack, attack)}, λ₁ = {first}: not ahead at {_ranges(behind, shared)}"
            )
            text += f" ({len(behind)} of {len(shared)})"
            checks.append(Check(not behind, text, all(point.clear for point in points.values())))
        return checks

    def _faster(self, lines, label) -> list[Check]:
        checks = []
        for attack, first, line, dip in self._pairs(lines):
            slow, goal = dip["accuracy"].idxmax(), dip["accuracy"].max()
            there = line.index[line["accuracy"] >= goal]
            text = f"{label.get(attack, attack)}, λ₁ = {first}: DIP's best {goal:.1%} at {slow}, "
            text += f"reached at {first} + {there[0]}" if len(there) else "never reached"
            checks.append(Check(bool(len(there) and first + there[0] < slow), text))
        return checks

    def _rises_and_falls(self, lines, label) -> list[Check]:
        """The best point lies inside the curve: above the first and above the last."""
        checks = []
        for (attack, defense, first), line in lines.items():
            if attack in self.strong and defense == self.tdips:
                top, ends = line["accuracy"].idxmax(), (line.index[0], line.index[-1])
                a, best, b = (_point(line, i) for i in (ends[0], top, ends[1]))
                text = (
                    f"{label.get(attack, attack)}, λ₁ = {first}: {a[0]:.1%}, best {best[0]:.1%} at "
                )
                text += f"{top}, {b[0]:.1%} at {ends[1]}"
                both = [_compare(best, end, "") for end in (a, b)]
                checks.append(Check(all(c.holds for c in both), text, all(c.clear for c in both)))
        return checks

    def _alike(self, lines, label, late) -> list[Check]:
        checks = []
        for attack in dict.fromkeys(attack for attack, *_ in lines):
            ours = {key[2]: line for key, line in lines.items() if key[:2] == (attack, self.tdips)}
            points = pd.DataFrame({first: line["accuracy"] for first, line in ours.items()})
            points = points[points.index >= late]
            if len(ours) > 1 and len(points):
                spread = points.max(axis=1) - points.min(axis=1)
                text = f"{label.get(attack, attack)}: {spread.max():.1%} apart at {spread.idxmax()}"
                checks.append(Check(bool(spread.max() <= HARDLY + 1e-9), text))
        return checks


def _cells(table: pd.DataFrame) -> dict:
    """(classifier, defense, attack) to (share, low, high); nothing where there is no share."""
    rows = table[table["accuracy"].notna()]
    keys = zip(rows["classifier"], rows["defense"], rows["attack"], strict=True)
    shares = rows[["accuracy", "low", "high"]].itertuples(index=False, name=None)
    return dict(zip(keys, shares, strict=True))


def _lines(curves) -> dict:
    """(attack, defense, λ₁) to its points, indexed by iteration in rising order."""
    if curves is None:
        return {}
    keys = ["attack", "defense", "first_iterations"]
    return {
        key: line.set_index("iteration").sort_index()
        for key, line in curves.groupby(keys, sort=False, observed=True)
    }


def _compare(a, b, place) -> Check:
    """Is share a above b? Each (share, low, high)."""
    (x, low, high), (y, other_low, other_high) = a, b
    known = (low, other_low) != (x, y) or (high, other_high) != (x, y)
    clear = low > other_high or high < other_low if known else None
    return Check(bool(x > y), f"{place}: {x:.1%} against {y:.1%}", clear)


def _point(line, iteration) -> tuple:
    """(share, low, high) of a curve at an iteration."""
    return tuple(line.loc[iteration, ["accuracy", "low", "high"]].astype(float))


def _ranges(chosen, every) -> str:
    """Iterations as ranges of neighbors, '100–300, 1500'."""
    runs, position = [], {iteration: i for i, iteration in enumerate(every)}
    for iteration in chosen:
        if runs and position[iteration] == position[runs[-1][1]] + 1:
            runs[-1][1] = iteration
        else:
            runs.append([iteration, iteration])
    return ", ".join(str(a) if a == b else f"{a}–{b}" for a, b in runs)


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
