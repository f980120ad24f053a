"""Paired comparisons of the defenses of Table 1: which one is correct where the other errs."""

from itertools import combinations

from tandem_defense.artifacts.accuracy import Accuracy
from tandem_defense.artifacts.base import Inputs, Sheet
from tandem_defense.artifacts.printing import Grid, Marks, counts, points
from tandem_defense.evaluation.rates import majority, select
from tandem_defense.evaluation.statistics import mcnemar, paired_interval
from tandem_defense.extras import extra

with extra("pipeline"):
    import pandas as pd

COLUMNS = ["dataset", "classifier", "attack", "defense_a", "defense_b"]
COLUMNS += ["n", "only_a", "only_b", "difference", "low", "high", "p_value"]


class Comparisons(Accuracy):
    """Differences in accuracy between each two defenses on the same images, with exact tests.

    The settings choose the cells, as those of an accuracy table do.
    """

    def frame(self, inputs: Inputs, sheet: Sheet) -> pd.DataFrame:
        """Columns ``COLUMNS``: only_a counts the images that only defense_a classifies correctly.

        difference is a's accuracy less b's, in [-1, 1], with its 95 % interval low to high. Over
        several seeds an image counts as correct where most seeds are, so that n stays the number
        of images. Neither p-values nor intervals are adjusted for their number. Raises ValueError
        where rows are missing or duplicated.
        """
        cells = self.cells(inputs.predictions, sheet)
        rows = select(inputs.predictions, cells)
        answers = majority(rows, ["defense"])
        tests = []
        for (classifier, attack), some in cells.groupby(["classifier", "attack"], sort=False):
            block = answers.loc[(classifier, attack)]
            for a, b in combinations(some["defense"], 2):
                test = mcnemar(block[a].astype(bool), block[b].astype(bool))
                n, only_a, only_b = len(block), test.only_a, test.only_b
                difference = ((only_a - only_b) / n, *paired_interval(only_a, only_b, n))
                tests.append((sheet.dataset, classifier, attack, a, b, n, only_a, only_b))
                tests[-1] += (*difference, test.p_value)
        return pd.DataFrame(tests, columns=COLUMNS)

    def grid(self, table: pd.DataFrame, sheet: Sheet, marks: Marks) -> Grid:
        """A block per classifier and attack, a row per pair."""
        blocks: dict[str, list[list[str]]] = {}
        for row in table.itertuples():
            title = f"{sheet.classifiers[row.classifier]}, {sheet.attacks[row.attack]}"
            pair = f"{sheet.defenses[row.defense_a]} – {sheet.defenses[row.defense_b]}"
            difference = f"{points(row.difference)} [{points(row.low)}, {points(row.high)}]"
            line = [pair, str(row.only_a), str(row.only_b), difference, f"{row.p_value:.2g}"]
            line = [marks.text(cell) for cell in line]
            blocks.setdefault(marks.text(title), []).append(line)
        caption = (
            f"{sheet.dataset}: on how many of {counts(table['n'])} images only the first, and only"
            " the second defense is correct; the difference of their accuracies in points with its"
            " 95 % interval (Tango's, with McNemar's correction); exact two-sided McNemar test."
            " Neither is adjusted for the number of comparisons. Oblivious attacker."
        )
        heads = ["only first", "only second", "difference", "p"]
        return Grid("Defenses", heads, blocks, caption, blocks_are="Classifier, attack")
