"""What the t-DIPs paper claims in words, judged by machine on numbers: its own and ours."""

from collections.abc import Callable, Sequence
from itertools import product
from math import isinf
from typing import NamedTuple

from tandem_defense.artifacts.accuracy import STEPS, Accuracy
from tandem_defense.artifacts.base import Inputs, Sheet
from tandem_defense.artifacts.curve import Curve
from tandem_defense.artifacts.printing import Grid, Marks
from tandem_defense.evaluation.rates import CELL, majority
from tandem_defense.evaluation.statistics import (
    McNemar,
    images_to_decide,
    mcnemar,
    paired_interval,
    wilson,
)
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


LEVEL = 0.05  # of the tests, which are not adjusted for their number


class Point(NamedTuple):
    """An accuracy in [0, 1] with its interval, and whose it is: (defense, λ₁, iteration)."""

    share: float
    low: float
    high: float
    read: tuple[str, int, int]


class Check(NamedTuple):
    """One comparison of a claim.

    clear : whether the images tell what holds from what does not; None where no test says
    images : on how many images a paired test would tell, if these are the true accuracies
    """

    holds: bool
    text: str
    clear: bool | None = None
    images: float | None = None


# (classifier, attack, whose accuracy, and whose) to the test of both on the same images.
Tests = Callable[[str, str, tuple, tuple], McNemar | None]


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
        """Columns numbers (published, measured), claim, holds, decided, evidence, images.

        holds : as the shares stand; NA where there is nothing to judge by
        decided : whether paired tests say the same: all comparisons of a claim that holds, one
            that contradicts of a claim that does not; of the share of clean accuracy that is left,
            intervals. NA in print and where no test says
        evidence : the cells that contradict, and how many comparisons are undecided
        images : on how many images all comparisons of a claim would be decided, each in four of
            five experiments, if the published accuracies are the true ones. The discordance is the
            upper end of what was measured (Wilson, 95 %), or the worst case. NA where nothing is
            published to compare
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
        tests = _tests(inputs.predictions)
        parts = {"measured": self.judge(table, sheet, curves, tests)}
        if printed is not None:
            # The measured discordance is that of the read-outs that are compared here.
            printed = printed.merge(table[[*CELL, *STEPS]], on=CELL, how="left")
            parts = {"published": self.judge(printed, sheet, tests=tests, printed=True)} | parts
        return pd.concat(parts, names=["numbers"]).reset_index(level=0)

    def judge(
        self,
        table: pd.DataFrame,
        sheet: Sheet,
        curves: pd.DataFrame | None = None,
        tests: Tests = lambda *_: None,
        printed: bool = False,
    ) -> pd.DataFrame:
        """The claims on one table of accuracies (columns of Table 1) and Figure 6's points.

        tests : of two accuracies on the same measured images, None where they are not
        printed : the accuracies are the paper's: its images are not here, so nothing is decided,
            but how many images would do so is known
        """
        cells, lines = _cells(table), _lines(curves)

        def compare(net, attack, a: Point, b: Point, place: str) -> Check:
            """Is a above b? On the images of both: a table may have more of one."""
            test, clear, images = tests(net, attack, a.read, b.read), None, None
            holds, text = bool(a.share > b.share), f"{a.share:.1%} vs. {b.share:.1%}"
            if printed:
                discordance = None
                if test is not None:
                    discordance = wilson(test.only_a + test.only_b, test.n)[1]
                images = images_to_decide(a.share, b.share, discordance)
            elif test is not None:
                holds, clear = test.only_a > test.only_b, test.p_value < LEVEL
                alone = f"alone {test.only_a} and {test.only_b} of {test.n}"
                difference = (test.only_a - test.only_b) / test.n
                same = abs(a.share - b.share - difference) < 1e-3  # shares of these images
                text = f"{text} ({alone})" if same else alone
            else:
                clear = a.low > b.high or a.high < b.low
            return Check(holds, f"{place}: {text}", clear, images)

        label = sheet.classifiers | sheet.attacks
        defenses = {name: sheet.defenses.get(name, name) for name in {*table["defense"]}}
        ours = sheet.defenses[self.tdips]
        attacks = [attack for attack in table["attack"].unique() if attack != "clean"]

        def beats(other: str | None, over: Sequence[str]) -> list[Check]:
            return [
                compare(
                    net,
                    attack,
                    cells[a],
                    cells[b],
                    f"{label.get(net, net)} {label.get(attack, attack)}",
                )
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
                self._collapses(cells, label, printed)
            ),
            "DIP alone defends (some iteration beats no defense)": self._defends(
                lines, cells, label, compare, tests
            ),
            f"{ours} beats DIP at equal iterations": self._outperforms(lines, label, compare),
            f"{ours} needs fewer iterations (λ₁ + λ₂ to DIP's best)": self._faster(
                lines, label, compare
            ),
            f"under {words} accuracy rises, then falls": self._rises_and_falls(
                lines, label, compare
            ),
            f"in late iterations (from {late}) λ₁ hardly matters (≤ {HARDLY:.0%})": self._alike(
                lines, label, late, tests
            ),
        }
        verdicts = [(claim, *_verdict(checks)) for claim, checks in claims.items()]
        columns = ["claim", "holds", "decided", "evidence", "images"]
        frame = pd.DataFrame(verdicts, columns=columns)
        return frame.astype({"holds": "boolean", "decided": "boolean", "images": "float"})

    def grid(self, table: pd.DataFrame, sheet: Sheet, marks: Marks) -> Grid:
        """A row per claim: does it hold in print, does it hold here, why, what would decide."""
        rows: dict[str, list[str]] = {}
        for row in table.itertuples():
            line = rows.setdefault(row.claim, [marks.text(row.claim), *["–"] * 4])
            if row.numbers == "published":
                line[1] = verdict(row.holds, row.decided)
                line[4] = images(row.images)
            else:
                line[2:4] = verdict(row.holds, row.decided), marks.text(row.evidence)
        caption = (
            f"{sheet.dataset}: the paper's claims, judged on its own numbers and on the measured"
            " ones. Undecided: paired tests (exact McNemar, 5 %, not adjusted) do not bear out what"
            " the shares say. Images: how many would decide all comparisons of a claim, each in"
            " 80 % of experiments, if the published accuracies are true; oblivious attacker."
        )
        heads = ["in print", "measured", "evidence here", "images"]
        return Grid("Claim", heads, {"": list(rows.values())}, caption)

    def _pairs(self, lines: dict) -> list:
        """(attack, λ₁, t-DIPs' curve, DIP's curve) for every t-DIPs curve."""
        return [
            (attack, first, line, lines[attack, self.dip, 0])
            for (attack, defense, first), line in lines.items()
            if defense == self.tdips and (attack, self.dip, 0) in lines
        ]

    def _collapses(self, cells, label, printed) -> list[Check]:
        """A share against a part of another: clear where the intervals of both lie apart."""
        checks = []
        for (net, defense, attack), cell in cells.items():
            if defense == self.hgd and attack in self.strong and (net, self.hgd, "clean") in cells:
                clean = cells[net, self.hgd, "clean"]
                bar = COLLAPSE * clean.share
                text = f"{label.get(net, net)} {label.get(attack, attack)}: {cell.share:.1%}"
                text += f" of {clean.share:.1%}"
                apart = cell.high < COLLAPSE * clean.low or cell.low > COLLAPSE * clean.high
                # A quarter of clean is taken for a defense of its own: more discordant than it is.
                needed = images_to_decide(cell.share, bar) if printed else None
                checks.append(Check(cell.share < bar, text, None if printed else apart, needed))
        return checks

    def _defends(self, lines, cells, label, compare, tests) -> list[Check]:
        """DIP's best point against the undefended accuracy, the highest of the classifiers'.

        Of images that the attack fools alone, which pairs tell of, that is 0; where nothing tells
        of it, there is nothing to judge by.
        """
        checks, undefended = [], Point(0.0, 0.0, 0.0, ("none", 0, 0))
        for (attack, defense, _), line in lines.items():
            bare = {key[0]: cells[key] for key in cells if key[1:] == ("none", attack)}
            net = self.curve_classifier or max(bare, key=bare.get, default=None)
            if defense == self.dip:
                top = line["accuracy"].idxmax()
                place, best = f"{label.get(attack, attack)}, iteration {top}", _point(line, top)
                if net in bare or tests(net, attack, best.read, undefended.read):
                    other = bare.get(net, undefended)
                    checks.append(compare(net, attack, best, other, place))
        return checks

    def _outperforms(self, lines, label, compare) -> list[Check]:
        """Ahead at every read-out; clear where it is, or where one at which it is not, is clear."""
        checks = []
        for attack, first, line, dip in self._pairs(lines):
            shared = line.index.intersection(dip.index)
            points = {
                i: compare(self.curve_classifier, attack, _point(line, i), _point(dip, i), "")
                for i in shared
            }
            behind = [i for i, point in points.items() if not point.holds]
            text = f"{label.get(attack, attack)}, λ₁ = {first}: "
            text += f"not ahead at {_ranges(behind, shared)} " if behind else "behind nowhere "
            text += f"({len(behind)} of {len(shared)})"
            checks.append(Check(not behind, text, _decided(list(points.values()))))
        return checks

    def _faster(self, lines, label, compare) -> list[Check]:
        """As good as DIP ever is, sooner; clear where it is ahead of DIP at as many steps then.

        Where it never is, clear where its own best is behind.
        """
        checks = []
        for attack, first, line, dip in self._pairs(lines):
            slow, goal = dip["accuracy"].idxmax(), dip["accuracy"].max()
            there = line.index[line["accuracy"] >= goal]
            text = f"{label.get(attack, attack)}, λ₁ = {first}: DIP's best {goal:.1%} at {slow}, "
            text += f"reached at {first} + {there[0]}" if len(there) else "never reached"
            at = there[0] if len(there) else line["accuracy"].idxmax()
            holds = bool(len(there) and first + at < slow)
            same = dip.index[dip.index >= first + at][0] if holds else slow
            both = (_point(line, at), _point(dip, same))
            clear = compare(self.curve_classifier, attack, *both, "").clear
            checks.append(Check(holds, text, clear))
        return checks

    def _rises_and_falls(self, lines, label, compare) -> list[Check]:
        """The best point lies inside the curve: above the first and above the last."""
        checks = []
        for (attack, defense, first), line in lines.items():
            if attack in self.strong and defense == self.tdips:
                top, ends = line["accuracy"].idxmax(), (line.index[0], line.index[-1])
                a, best, b = (_point(line, i) for i in (ends[0], top, ends[1]))
                text = f"{label.get(attack, attack)}, λ₁ = {first}: {a.share:.1%}, best"
                text += f" {best.share:.1%} at {top}, {b.share:.1%} at {ends[1]}"
                both = [compare(self.curve_classifier, attack, best, end, "") for end in (a, b)]
                checks.append(Check(all(c.holds for c in both), text, _decided(both)))
        return checks

    def _alike(self, lines, label, late, tests) -> list[Check]:
        """Clear where the interval of the largest difference lies within the limits, or outside."""
        checks = []
        for attack in dict.fromkeys(attack for attack, *_ in lines):
            ours = {key[2]: line for key, line in lines.items() if key[:2] == (attack, self.tdips)}
            points = pd.DataFrame({first: line["accuracy"] for first, line in ours.items()})
            points = points[points.index >= late]
            if len(ours) > 1 and len(points):
                spread = points.max(axis=1) - points.min(axis=1)
                at, limit = spread.idxmax(), HARDLY + 1e-9
                ends = points.loc[at].sort_values(kind="stable").index[[-1, 0]]
                reads = [(self.tdips, int(first), int(at)) for first in ends]
                test, clear = tests(self.curve_classifier, attack, *reads), None
                text = f"{label.get(attack, attack)}: {spread.max():.1%} apart at {at}"
                if test is not None:
                    low, high = paired_interval(test.only_a, test.only_b, test.n)
                    clear = (-limit <= low and high <= limit) or low > limit
                    text += f" (λ₁ = {ends[0]:.0f} and {ends[1]:.0f},"
                    text += f" alone {test.only_a} and {test.only_b} of {test.n})"
                checks.append(Check(bool(spread.max() <= limit), text, clear))
        return checks


def verdict(holds, decided) -> str:
    """'yes' or 'no', as the shares stand; 'undecided' where tests do not say so; '–': unknown."""
    if pd.isna(holds):
        return "–"
    if pd.notna(decided) and not decided:
        return "undecided"
    return "yes" if holds else "no"


def images(number) -> str:
    """How many images decide, in print: '1,234', 'no number' where shares are equal, '–'."""
    if pd.isna(number):
        return "–"
    return "no number" if isinf(number) else f"{number:,.0f}"


def _tests(predictions: pd.DataFrame) -> Tests:
    """Exact paired tests on the rows of an experiment; None where there are none of a pair."""
    answers = majority(predictions, ["defense", "first_iterations", "iteration"])
    known = set(answers.index.droplevel("image"))

    def test(net, attack, a, b) -> McNemar | None:
        if (net, attack) not in known or not {a, b} <= set(answers):
            return None
        both = answers.loc[(net, attack)][[a, b]].dropna()
        return mcnemar(both[a], both[b]) if len(both) else None

    return test


def _cells(table: pd.DataFrame) -> dict[tuple, Point]:
    """(classifier, defense, attack) to its point; nothing where there is no share.

    What is printed has no interval and no read-out.
    """
    rows = table[table["accuracy"].notna()]
    return {
        (row["classifier"], row["defense"], row["attack"]): Point(
            row["accuracy"],
            *_interval(row),
            (row["defense"], row.get("first_iterations", 0), row.get("iteration", 0)),
        )
        for row in rows.to_dict("records")
    }


def _lines(curves) -> dict:
    """(attack, defense, λ₁) to its points, indexed by iteration in rising order."""
    if curves is None:
        return {}
    keys = ["attack", "defense", "first_iterations"]
    return {
        key: line.set_index("iteration").sort_index()
        for key, line in curves.groupby(keys, sort=False, observed=True)
    }


def _point(line, iteration) -> Point:
    """A curve's point at an iteration."""
    row = line.loc[iteration]
    read = (row["defense"], int(row["first_iterations"]), int(iteration))
    return Point(float(row["accuracy"]), *_interval(row), read)


def _interval(row) -> tuple[float, float]:
    """Where an accuracy may lie; nothing is known of it for what is printed.

    The range of several seeds is of the same images, and says nothing of what others would do: it
    counts where it is wider than the interval of so many images.
    """
    share = float(row["accuracy"])
    low, high = float(row.get("low", share)), float(row.get("high", share))
    if "n" not in row:
        return low, high
    least, most = wilson(round(share * row["n"]), int(row["n"]))
    return min(low, least), max(high, most)


def _ranges(chosen, every) -> str:
    """Iterations as ranges of neighbors, '100–300, 1500'."""
    runs, position = [], {iteration: i for i, iteration in enumerate(every)}
    for iteration in chosen:
        if runs and position[iteration] == position[runs[-1][1]] + 1:
            runs[-1][1] = iteration
        else:
            runs.append([iteration, iteration])
    return ", ".join(str(a) if a == b else f"{a}–{b}" for a, b in runs)


def _decided(checks: Sequence[Check]) -> bool | None:
    """Whether the tests say what the shares say; None where none of them says anything."""
    failed = [check for check in checks if not check.holds]
    clear = [check.clear for check in failed or checks]
    if any(c is not None for c in clear):
        return any(clear) if failed else all(clear)
    return None


def _verdict(checks) -> tuple:
    """(holds, decided, evidence, images) of a claim from its checks."""
    if not checks:
        return pd.NA, pd.NA, "nothing to judge by", float("nan")
    failed = [check.text for check in checks if not check.holds]
    evidence = f"contradicted by {len(failed)} of {len(checks)}: {'; '.join(failed)}"
    if not failed:
        evidence = f"holds in {len(checks)} of {len(checks)}"
        evidence += f": {checks[0].text}" if len(checks) == 1 else ""
    if unclear := sum(check.clear is False for check in checks):
        evidence += f"; undecided in {unclear} of {len(checks)}"
    decided = _decided(checks)
    needed = [check.images for check in checks if check.images is not None]
    return not failed, pd.NA if decided is None else decided, evidence, max(needed, default=None)
