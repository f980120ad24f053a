"""What the FUNN paper claims in words, judged by machine on numbers: its own and ours."""

from collections.abc import Mapping
from typing import NamedTuple

from tandem_defense.artifacts.base import Inputs, Sheet
from tandem_defense.artifacts.printing import Grid, Marks
from tandem_defense.artifacts.success import Success
from tandem_defense.extras import extra
from tandem_defense.settings import Count, Positive

with extra("pipeline"):
    import pandas as pd

# The paper's words that need a number.
ROBUST = 0.05  # the paper calls 4.13 % robust
NEAR_ALL = 0.95  # "near 100 %"
SIMILAR = 0.05  # so far apart may success rates of similar performance be
CLOSE = 2.0  # a noise level is close to β within this factor
BLACK = 0.5  # an attacker paints black if its error is this share of a black image's
BARE = ("deepfool_linf_50", "fgsm", "iterative_fgsm")  # attacks that MagNet's column has
UNBOUNDED = ("fgsm_unbounded", "gradient_unbounded")


class Rate(NamedTuple):
    """A cell of Table 2: success rate and its range in [0, 1], mean L2 of the successes."""

    rate: float
    low: float
    high: float
    noise: float

    def __str__(self) -> str:
        if self.low == self.rate == self.high:
            return f"{self.rate:.2%}"
        return f"{self.rate:.2%} [{self.low:.2%}, {self.high:.2%}]"


class Training(NamedTuple):
    """How a network of FUNN came out that was trained with another β or other rates.

    attacker, defender : errors (3) and (4) after the last epoch, in the unit of the loss
    black : what the attacker's error would be if all its images were black
    rate : success of DeepFool in L2, 50 steps
    """

    attacker: float
    defender: float
    black: float
    rate: float


Cells = Mapping[tuple[str, str], Rate]  # (model, attack)
Verdict = tuple[bool | None, str]  # whether it holds, None: nothing to judge by; and the evidence


def judge(
    cells: Cells,
    *,
    growing: Cells | None = None,
    beta: float = 0.01,
    pixels: int = 1024,
    larger: Mapping[float, Training] | None = None,
    rates: Mapping[str, Training] | None = None,
) -> pd.DataFrame:
    """The claims on one Table 2: columns claim, holds (NA: nothing to judge by), evidence.

    cells : of the models ``classic``, ``magnet`` and ``funn``, attacks as ``published/table2.csv``
        has them
    growing : cells in which all numbers of steps of a DeepFool have the same images; None: `cells`
    beta, pixels : the constraint that FUNN was trained with, and of how many pixels its errors are
    larger : networks by their β
    rates : networks by what their learning rates were multiplied with, ``× 1`` the paper's own
    """
    verdicts = {
        f"FUNN is robust against DeepFool {norm} with 50 steps (success ≤ {ROBUST:.0%})": (
            _all(cells, [("funn", f"deepfool_{name}_50")], lambda cell: cell.rate <= ROBUST)
        )
        for norm, name in (("L2", "l2"), ("L∞", "linf"))
    }
    for norm, name, steps in (("L2", "l2", (50, 200, 1000)), ("L∞", "linf", (50, 200))):
        claim = f"the success of DeepFool {norm} on FUNN grows with its steps"
        keys = [("funn", f"deepfool_{name}_{n}") for n in steps]
        verdicts[claim] = _grows(growing or cells, keys)
    single, deep = ("funn", "single_pixel"), ("funn", "deepfool_l2_50")
    verdicts |= {
        "SinglePixel is stronger against FUNN than DeepFool L2 with 50 steps": (
            _grows(cells, [deep, single])
        ),
        f"FGSM and Gradient without a bound fool FUNN nearly always (≥ {NEAR_ALL:.0%})": _all(
            cells, [("funn", attack) for attack in UNBOUNDED], lambda cell: cell.rate >= NEAR_ALL
        ),
        f"MagNet and FUNN perform similarly (≤ {100 * SIMILAR:.0f} points apart)": _alike(cells),
        f"DeepFool's noise level on FUNN is close to β, as L2 norm (within a factor {CLOSE:g})": (
            _close(cells.get(deep), beta, lambda noise: noise)
        ),
        "the same, squared and per pixel": (
            _close(cells.get(deep), beta, lambda noise: noise**2 / pixels)
        ),
        f"with a larger β the attacker paints black (error ≥ {BLACK:.0%} of black's)": (
            _black(larger or {})
        ),
        "a bad choice of learning rates gives a network that is not robust": (
            _fragile(rates or {})
        ),
    }
    rows = [(claim, *verdict) for claim, verdict in verdicts.items()]
    frame = pd.DataFrame(rows, columns=["claim", "holds", "evidence"])
    return frame.astype({"holds": "boolean"})


def ledger(judged: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Columns numbers (``published``, ``measured``), claim, holds, evidence."""
    return pd.concat(judged, names=["numbers"]).reset_index(level=0)


def printed(table: pd.DataFrame) -> dict[tuple[str, str], Rate]:
    """The cells of a published Table 2, which have no range."""
    return {
        (row.model, row.attack): Rate(*[row.success_rate] * 3, row.noise_level)
        for row in table.itertuples()
        if pd.notna(row.success_rate)
    }


class FUNNClaims(Success):
    """The claims of the paper's text: what holds in print, and what holds here.

    beta, pixels : of FUNN's constraint (5), and of how many pixels its errors are

    The other settings choose the cells of Table 2, as those of a success table do; the models have
    to be called ``classic``, ``magnet`` and ``funn``. What the paper says of other β and
    learning rates is judged in docs/reproduction.md, from networks of reproduction/funn.py.
    """

    beta: Positive = 0.01
    pixels: Count = 1024

    def frame(self, inputs: Inputs, sheet: Sheet) -> pd.DataFrame:
        """Columns numbers (published, measured), claim, holds (NA: nothing to judge by), evidence.

        Shares are compared as they stand; evidence has their intervals.
        """
        table = super().frame(inputs, sheet)
        cells = {
            (row.model, row.attack): Rate(row.success_rate, row.low, row.high, row.noise_level)
            for row in table.itertuples()
            if row.n
        }
        of_training = {"beta": self.beta, "pixels": self.pixels}
        parts = {"measured": judge(cells, **of_training)}
        published = inputs.published("success_rate")
        if published is not None:
            parts = {"published": judge(printed(published), **of_training)} | parts
        return ledger(parts)

    def grid(self, table: pd.DataFrame, sheet: Sheet, marks: Marks) -> Grid:
        """A row per claim: the published and the measured numbers, each with its verdict."""
        words = {True: "yes", False: "no"}
        rows: dict[str, list[str]] = {}
        for row in table.itertuples():
            line = rows.setdefault(row.claim, [marks.text(row.claim), *["–"] * 4])
            at = 1 if row.numbers == "published" else 3
            if row.evidence != NOTHING[1]:
                answer = "–" if pd.isna(row.holds) else words[bool(row.holds)]
                line[at : at + 2] = [marks.text(row.evidence), answer]
        caption = (
            f"{sheet.dataset}: the paper's claims, judged on its own numbers and on the measured"
            " ones; oblivious attacker."
        )
        heads = ["published", "holds", "measured", "holds"]
        return Grid("Claim", heads, {"": list(rows.values())}, caption)


NOTHING: Verdict = (None, "nothing to judge by")


def _known(cells: Cells, keys: list) -> dict[str, Rate]:
    return {key[1]: cells[key] for key in keys if key in cells}


def _text(cells: Mapping[str, Rate]) -> str:
    return ", ".join(f"{name} {cell}" for name, cell in cells.items())


def _all(cells: Cells, keys: list, holds) -> Verdict:
    """Every cell that there is has a property."""
    known = _known(cells, keys)
    return (all(map(holds, known.values())), _text(known)) if known else NOTHING


def _grows(cells: Cells, keys: list) -> Verdict:
    """Each success rate is above the one before, or that one has left nothing.

    Nothing to judge by where the first has left nothing already.
    """
    known = _known(cells, keys)
    if len(known) < len(keys):
        return NOTHING
    shares = [cell.rate for cell in known.values()]
    if shares[0] == 1:
        return None, f"{_text(known)}: nothing is left to fool"
    return all(a < b or a == b == 1 for a, b in zip(shares, shares[1:])), _text(known)


def _alike(cells: Cells) -> Verdict:
    """MagNet's and FUNN's success rates, wherever both are known, lie near each other."""
    pairs = {
        attack: (cells["magnet", attack], cells["funn", attack])
        for attack in BARE
        if ("magnet", attack) in cells and ("funn", attack) in cells
    }
    if not pairs:
        return NOTHING
    texts = [f"{attack} {a} and {b}" for attack, (a, b) in pairs.items()]
    return all(abs(a.rate - b.rate) <= SIMILAR for a, b in pairs.values()), ", ".join(texts)


def _close(cell: Rate | None, beta: float, unit) -> Verdict:
    """A noise level lies near β in some unit."""
    if cell is None or pd.isna(cell.noise):
        return NOTHING
    noise = unit(cell.noise)
    return beta / CLOSE <= noise <= beta * CLOSE, f"{noise:.2g}, β = {beta:g}"


def _black(larger: Mapping[float, Training]) -> Verdict:
    """The attacker's error is much of a black image's, for every larger β."""
    if not larger:
        return NOTHING
    texts = [
        f"β = {beta:g}: the attacker's error {net.attacker:.3g} of black's {net.black:.3g},"
        f" the defender's {net.defender:.3g}"
        for beta, net in larger.items()
    ]
    holds = all(net.attacker >= BLACK * net.black for net in larger.values())
    return holds, "; ".join(texts)


def _fragile(rates: Mapping[str, Training]) -> Verdict:
    """The paper's rates give a robust network, and some other rates one that is not."""
    if "× 1" not in rates or len(rates) < 2:
        return NOTHING
    texts = [f"rates {factor} {net.rate:.2%}" for factor, net in rates.items()]
    holds = rates["× 1"].rate <= ROBUST < max(net.rate for net in rates.values())
    return holds, "DeepFool L2, 50 steps: " + ", ".join(texts)
