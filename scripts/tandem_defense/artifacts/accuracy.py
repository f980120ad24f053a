"""Table 1 of the t-DIPs paper: the accuracy of every defense under every attack."""

from itertools import product

from tandem_defense.artifacts.base import Inputs, Sheet, Table
from tandem_defense.artifacts.printing import Grid, Marks, cell, counts, interval_of
from tandem_defense.evaluation.rates import CELL, computed, correct, rates, select
from tandem_defense.extras import extra
from tandem_defense.settings import AttackNames, ClassifierNames, Count, DefenseNames

with extra("pipeline"):
    import pandas as pd

STEPS = ["first_iterations", "iteration"]
COLUMNS = [*CELL, *STEPS, "n", "accuracy", "low", "high", "seeds", "published"]


class Accuracy(Table):
    """Accuracy over all images, clean and attacked, a block of defenses per classifier.

    classifiers, attacks : those that are shown, in this order; by default all, clean first
    omit : defenses that are left out
    iterations : the read-out of restorations, λ₂ of t-DIPs; by default the last that all cells of a
        defense have
    first_iterations : λ₁ of t-DIPs; by default the smallest that all cells have
    intervals : whether the print has them too
    published : a table of published numbers, ``resources/published/<name>.csv``
    """

    classifiers: ClassifierNames | None = None
    attacks: AttackNames | None = None
    omit: DefenseNames | None = None
    iterations: Count | None = None
    first_iterations: Count | None = None
    intervals: bool = False
    published: str | None = None

    PRINTED = ("dataset", "classifier", "defense", "attack", "accuracy")  # columns of `published`

    def cells(self, rows: pd.DataFrame, sheet: Sheet) -> pd.DataFrame:
        """The wanted cells that the experiment computes, with their read-out.

        Raises ValueError where it computes none of them.
        """
        defenses = [name for name in sheet.defenses if name not in (self.omit or ())]
        axes = ([sheet.dataset], self.classifiers or sheet.classifiers, defenses)
        wanted = pd.DataFrame(product(*axes, self.attacks or sheet.attacks), columns=CELL)
        cells = computed(rows, wanted)
        known = rows[[*CELL, *STEPS]].drop_duplicates().merge(cells, on=CELL)
        for column, asked, choose in (
            ("iteration", self.iterations, max),
            ("first_iterations", self.first_iterations, min),
        ):
            chosen = {}
            for defense, some in known.groupby("defense", observed=True):
                steps = [set(values) for _, values in some.groupby(CELL, observed=True)[column]]
                common = set.intersection(*steps) or {0}
                chosen[defense] = (asked or choose(common)) if some[column].any() else 0
            cells[column] = cells["defense"].map(chosen).astype(int)
        return cells

    def frame(self, inputs: Inputs, sheet: Sheet) -> pd.DataFrame:
        """Columns ``COLUMNS``, shares in [0, 1], in the configuration's order.

        low and high are Wilson's 95 % interval, or the range over several seeds with the median as
        accuracy. Raises ValueError where rows are missing or duplicated.
        """
        cells = self.cells(inputs.predictions, sheet)
        rows = select(inputs.predictions, cells)
        shares = rates(rows, CELL, correct(rows)).rename(columns={"rate": "accuracy"})
        table = cells.merge(shares, on=CELL, how="left")
        printed = inputs.published("accuracy")
        if printed is None:
            return table.assign(published=float("nan"))[COLUMNS]
        printed = printed[[*CELL, "accuracy"]].rename(columns={"accuracy": "published"})
        return table.merge(printed, on=CELL, how="left", validate="m:1")[COLUMNS]

    def grid(self, table: pd.DataFrame, sheet: Sheet, marks: Marks) -> Grid:
        """A block's best defense per attack is bold, controls are italic with a dagger."""
        attacks = [a for a in self.attacks or sheet.attacks if a in set(table["attack"])]
        bold = best(table, sheet)
        blocks: dict[str, list[list[str]]] = {}
        for (classifier, defense), group in table.groupby(["classifier", "defense"], sort=False):
            cells = dict.fromkeys(attacks, "–")
            for row in group.itertuples():
                interval = (row.low, row.high) if self.intervals else ()
                mark = marks.bold if bold[row.Index] else "{}"
                cells[row.attack] = cell(row.accuracy, row.published, 1, interval, mark)
            name = marks.text(sheet.defenses[defense])
            name = marks.control.format(name) if defense in sheet.controls else name
            title = marks.text(sheet.classifiers[classifier])
            blocks.setdefault(title, []).append([name, *cells.values()])
        heads = [marks.text(sheet.attacks[attack]) for attack in attacks]
        return Grid("Defense", heads, blocks, self.caption(table, sheet), blocks_are="Classifier")

    def caption(self, table: pd.DataFrame, sheet: Sheet) -> str:
        """Dataset, n, what is counted, interval, threat model, read-outs, marks."""
        text = (
            f"{sheet.dataset}, n = {counts(table['n'])}: accuracy in % over all images;"
            f" {interval_of(int(table['seeds'].max()))} in the CSV; oblivious attacker (attacks on"
            " the bare classifier). Bold: best defense."
        )
        steps = [
            f"{name} = {', '.join(map(str, numbers))}"
            for name, column in zip(("λ₁", "λ₂"), STEPS, strict=True)
            if (numbers := sorted(set(table[column]) - {0}))
        ]
        text += f" Restorations: {'; '.join(steps)}." if steps else ""
        if table["defense"].isin(sheet.controls).any():
            text += " † control, not a contender."
        return text + (" In parentheses: published." if table["published"].notna().any() else "")


def best(table: pd.DataFrame, sheet: Sheet) -> pd.Series:
    """Which cells to print in bold: a column's best defense within its block.

    'none' and the controls never count; equals share the honor.
    """
    accuracy = table["accuracy"].where(~table["defense"].isin(["none", *sheet.controls]))
    top = accuracy.groupby([table["classifier"], table["attack"]]).transform("max")
    return accuracy.notna() & (accuracy == top)
