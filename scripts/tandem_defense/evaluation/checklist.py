"""What a run of threats answers of the checklist of Carlini et al. 2019.

*On Evaluating Adversarial Robustness*, sections 3 to 5, in our words: what an evaluation has to
have done before its numbers say something of a defense. Each question is answered from the judged
candidates alone, for every defended classifier; "no" names those that it is of.
"""

from collections.abc import Callable, Sequence

from tandem_defense.evaluation.statistics import wilson
from tandem_defense.evaluation.threats import CLEAN, DEFENDED, EOT, WORST, per_image, robustness
from tandem_defense.extras import extra

with extra("pipeline"):
    import pandas as pd

COLUMNS = ["part", "question", "answer", "evidence"]
YES, NO, OPEN = "yes", "no", "does not apply"
Answer = tuple[str, str]


def checklist(rows: pd.DataFrame, vote: str = "mean", controls: Sequence[str] = ()) -> pd.DataFrame:
    """A row per question: part of the checklist, question, yes / no / does not apply, and why.

    rows : judged candidates, with the columns of ``files/judgments.py``
    vote : see :func:`.per_image`
    controls : defenses that are simple ones, for comparison
    """
    run = Run(rows, vote, controls)
    lines = [(part, text, *answer(run)) for part, text, answer in QUESTIONS]
    return pd.DataFrame(lines, columns=COLUMNS)


class Run:
    """The rows of a run, aggregated, and what is asked of them more than once."""

    def __init__(self, rows: pd.DataFrame, vote: str, controls: Sequence[str]):
        self.rows, self.controls = rows, controls
        self.table = robustness(rows, vote)
        self.images = per_image(rows, vote)
        self.table["signs"] = self.table["signs"].str.split()

    def each(self) -> list[tuple[str, pd.DataFrame, pd.DataFrame]]:
        """(name, its cells, its rows) of every defended classifier."""
        parts = dict(list(self.rows.groupby(DEFENDED, observed=True, sort=False)))
        cells = self.table.groupby(DEFENDED, sort=False)
        return [(f"{key[1]}, {key[2]}", cell, parts[key]) for key, cell in cells]

    def judged(self, wrong: Callable[[pd.DataFrame, pd.DataFrame], str], good: str) -> Answer:
        """Yes, and `good`, where `wrong` has nothing to say of any defended classifier."""
        found = [(name, wrong(cells, rows)) for name, cells, rows in self.each()]
        bad = [f"{name}: {text}" for name, text in found if text]
        return (NO, "; ".join(bad)) if bad else (YES, good)


def at(cells: pd.DataFrame, *threats: str) -> pd.DataFrame:
    """The cells of some threats."""
    return cells[cells["threat"].isin(threats)]


def percent(value: float) -> str:
    """A share, as text."""
    return f"{100 * value:.0f} %"


def threat_model(run: Run) -> Answer:
    """Goal, bounds and kinds of attackers."""
    sizes = [e for e in sorted(run.rows["epsilon"].unique()) if e]
    if not sizes:
        return NO, "no threat has a bound"
    names = [name for name in run.rows["threat"].unique() if name != CLEAN]
    bounds = f"{sizes[0]:.3g} to {sizes[-1]:.3g}" if len(sizes) > 1 else f"{sizes[0]:.3g}"
    return YES, f"any wrong class, L∞ of at most {bounds}; {', '.join(names)}"


def adaptive(run: Run) -> Answer:
    """No where a defense has oblivious attackers alone."""

    def lacks(cells, rows):
        return "" if rows["aware"].any() else "no attack that knows of the defense"

    always = run.rows.groupby("threat", sort=False)["aware"].all()
    return run.judged(lacks, ", ".join(always.index[always]))


def clean_accuracy(run: Run) -> Answer:
    """From the lowest to the highest."""
    values = at(run.table, CLEAN)["accuracy"]
    return YES, f"{percent(values.min())} to {percent(values.max())}"


def adaptive_is_stronger(run: Run) -> Answer:
    """No where an attacker who does not know of the defense leaves less."""

    def weaker(cells, rows):
        aware = set(rows.loc[rows["aware"], "threat"])
        searched = set(rows.loc[rows["samples"] > 0, "threat"])
        for epsilon, same in cells[cells["epsilon"] > 0].groupby("epsilon"):
            known = same[same["threat"].isin(searched & aware)]["accuracy"]
            blind = same[same["threat"].isin(searched - aware)]["accuracy"]
            if len(known) and len(blind) and known.min() > blind.min():
                return f"{percent(known.min())} instead of {percent(blind.min())} at {epsilon:.3g}"
        return ""

    return run.judged(weaker, "no attack that does not know of the defense reaches less")


def reaches_zero(run: Run) -> Answer:
    """No where the worst case at the largest bound leaves something."""

    def left(cells, rows):
        if (bounded := at(cells, WORST)).empty:
            return "no threat has a bound"
        last = bounded.sort_values("epsilon").iloc[-1]
        return last["accuracy"] and f"{percent(last['accuracy'])} at {last['epsilon']:.3g}"

    return run.judged(left, "in the worst case, at the largest bound of each")


def falls_with_epsilon(run: Run) -> Answer:
    """No where a threat leaves more, by over an image, at a larger bound."""

    def rises(cells, rows):
        for threat, same in cells[~cells["threat"].isin([CLEAN, WORST])].groupby("threat"):
            values = same.sort_values("epsilon")
            more = values["accuracy"].diff() * values["n"] > 1 + 1e-6
            if more.any() and rows.loc[rows["threat"] == threat, "samples"].max():
                return f"{threat} leaves more at {values.loc[more, 'epsilon'].iloc[0]:.3g}"
        return ""

    if run.table.groupby("threat")["epsilon"].nunique().max() < 2:
        return OPEN, "one bound alone"
    return run.judged(rises, "up to one image")


def sign(name: str, good: str) -> Callable[[Run], Answer]:
    """No where a cell has that sign of a failed attack."""

    def answer(run: Run) -> Answer:
        def has(cells, rows):
            shown = cells[cells["signs"].map(lambda s: name in s) & (cells["threat"] != WORST)]
            return ", ".join(dict.fromkeys(shown["threat"]))

        return run.judged(has, good)

    return answer


def without_gradients(run: Run) -> Answer:
    """No without such a threat, or where it leaves less than one with gradients."""
    blind = ~run.rows["gradients"] & (run.rows["samples"] > 0)
    if not blind.any():
        return NO, "no threat without gradients"

    def lacks(cells, rows):
        better = cells["signs"].map(lambda signs: "query_better" in signs)
        if not blind[rows.index].any():
            return "without one"
        return ", ".join(dict.fromkeys(cells.loc[better & (cells["threat"] != WORST), "threat"]))

    names = run.rows.loc[blind, "threat"].unique()
    return run.judged(lacks, f"{', '.join(names)} reached no less")


def averaged(run: Run) -> Answer:
    """No where an attacker averaged over fewer draws than AutoAttack's 20."""
    random = run.rows[run.rows["random"] & (run.rows["samples"] > 0) & run.rows["aware"]]
    if random.empty:
        return OPEN, "no random defense was attacked by one who knows of it"
    least = int(random["samples"].min())
    draws = int(run.rows.loc[run.rows["random"], "draw"].max()) + 1
    seen = f"{least} draws at a step, judged with {draws} others"
    return (YES if least >= EOT else NO), seen


def noise_is_harmless(run: Run) -> Answer:
    """No without noise, or where the smallest of it lowers accuracy beyond its interval."""
    harmless = run.rows[(run.rows["samples"] == 0) & (run.rows["threat"] != CLEAN)]
    if harmless.empty:
        return NO, "no random noise as a control"
    names = set(harmless["threat"])

    def harms(cells, rows):
        noise = at(cells, *names)
        if noise.empty:
            return "without one"
        bound, clean = noise.sort_values("epsilon").iloc[0], at(cells, CLEAN).iloc[0]
        _, high = wilson(round(bound["accuracy"] * bound["n"]), int(bound["n"]))
        if high < clean["accuracy"]:
            return f"{percent(bound['accuracy'])} at {bound['epsilon']:.3g}"
        return ""

    return run.judged(harms, "at the smallest bound, within the interval of the clean accuracy")


def per_image_worst(run: Run) -> Answer:
    """Yes: Table 3 has it."""
    return YES, "the threat `worst`, over all threats and bounds up to ε"


def simple_defenses(run: Run) -> Answer:
    """No without a control."""
    seen = [name for name in run.rows["defense"].unique() if name in run.controls]
    return (YES, ", ".join(seen)) if seen else (NO, "no control among the defenses")


def enough(run: Run) -> Answer:
    """No below 100 images."""
    n = sorted(run.table["n"].unique())
    low, high = wilson(n[0] // 2, int(n[0]))
    text = f"{n[0]} images" if len(n) == 1 else f"{n[0]} to {n[-1]} images"
    return (YES if n[0] >= 100 else NO), f"{text}: an interval of up to {percent(high - low)}"


def released(run: Run) -> Answer:
    """Yes: they are files of the run."""
    return YES, "the code with its configuration; candidates with norms in results/candidates/"


ATTACKER, STRENGTH, REPORT = "The attacker", "Did the attacks work", "What is reported"
QUESTIONS: list[tuple[str, str, Callable[[Run], Answer]]] = [
    (ATTACKER, "Is it said what the attacker wants, may change and knows?", threat_model),
    (ATTACKER, "Was every defense attacked by one who knows of it?", adaptive),
    (ATTACKER, "Is who knows of it at least as strong as who does not?", adaptive_is_stronger),
    (ATTACKER, "Was one tried who needs no gradient, and is he no stronger?", without_gradients),
    (STRENGTH, "Does accuracy fall to 0 where the bound is large enough?", reaches_zero),
    (STRENGTH, "Does accuracy never rise with the bound?", falls_with_epsilon),
    (
        STRENGTH,
        "Did the attacks run to the end?",
        sign("incomplete_optimization", "the loss of few images still rose"),
    ),
    (
        STRENGTH,
        "Were there gradients, and not zeros?",
        lambda run: max(
            (
                sign("unavailable_gradients", "finite, seldom zero")(run),
                sign("zero_gradients", "finite, seldom zero")(run),
            ),
            key=lambda answer: answer[0] == NO,
        ),
    ),
    (STRENGTH, "Were random defenses averaged over enough of their draws?", averaged),
    (
        STRENGTH,
        "Do attacks on a stand-in also work on the defense itself?",
        sign("transfer_failure", "they do"),
    ),
    (STRENGTH, "Does random noise of the same size do no harm?", noise_is_harmless),
    (REPORT, "Clean accuracy beside every robust one?", clean_accuracy),
    (REPORT, "The worst case per image, not an average over attacks?", per_image_worst),
    (REPORT, "Simple defenses for comparison?", simple_defenses),
    (REPORT, "Enough images?", enough),
    (REPORT, "Code, settings and attacked images?", released),
]
