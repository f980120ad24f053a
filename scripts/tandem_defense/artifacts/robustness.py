"""Table 3: the accuracy of defended classifiers under attackers who know of the defense."""

from typing import Literal

import numpy as np

from tandem_defense.artifacts.base import Inputs, Sheet, Table
from tandem_defense.artifacts.printing import Grid, Marks, counts, number
from tandem_defense.evaluation.threats import CLEAN, SIGNS, WORST, robustness
from tandem_defense.extras import extra
from tandem_defense.settings import Epsilon

with extra("pipeline"):
    import pandas as pd


class Robustness(Table):
    """Accuracy of every classifier behind every defense: clean, per threat, and the worst case.

    epsilon : the bound that is printed; the CSV has all
    vote : of a random defense's draws: ``mean``, their mean accuracy; ``majority``, that of their
        vote
    """

    epsilon: Epsilon
    vote: Literal["mean", "majority"] = "mean"

    NEEDS = ("threats",)

    def frame(self, inputs: Inputs, sheet: Sheet) -> pd.DataFrame:
        """Columns ``evaluation.threats.COLUMNS``, in the configuration's order."""
        table = robustness(inputs.threats, self.vote)
        order = {
            "classifier": list(sheet.classifiers),
            "defense": list(sheet.defenses),
            "threat": [CLEAN, *sheet.threats, WORST],
        }
        places = {key: table[key].map(names.index) for key, names in order.items()}
        places = pd.DataFrame(places | {"epsilon": table["epsilon"]})
        return table.loc[places.sort_values(list(places)).index].reset_index(drop=True)

    def grid(self, table: pd.DataFrame, sheet: Sheet, marks: Marks) -> Grid:
        """A row per defense, at `epsilon`; numbers beside a cell are its signs of failure."""
        near = np.isclose(table["epsilon"], self.epsilon) | (table["threat"] == CLEAN)
        shown = table[near]
        threats = [n for n in [CLEAN, *sheet.threats, WORST] if n in set(shown["threat"])]
        blocks: dict[str, list[list[str]]] = {}
        for (classifier, defense), group in shown.groupby(["classifier", "defense"], sort=False):
            cells = dict.fromkeys(threats, "–")
            for row in group.itertuples():
                text = number(row.accuracy, 1)
                text = marks.bold.format(text) if row.threat == WORST else text
                told = ",".join(str(1 + SIGNS.index(sign)) for sign in row.signs.split())
                cells[row.threat] = f"{text} ({told})" if told else text
            name = marks.text(sheet.defenses[defense])
            name = marks.control.format(name) if defense in sheet.controls else name
            title = marks.text(sheet.classifiers[classifier])
            blocks.setdefault(title, []).append([name, *cells.values()])
        labels = {CLEAN: "Clean", WORST: "Worst case"} | sheet.threats
        heads = [marks.text(labels[name]) for name in threats]
        return Grid("Defense", heads, blocks, self.caption(shown, sheet), blocks_are="Classifier")

    def caption(self, table: pd.DataFrame, sheet: Sheet) -> str:
        """Dataset, n, bound, what is counted, and the signs that occur."""
        seen = {sign for text in table["signs"] for sign in text.split()}
        listed = [f"{i} {n.replace('_', ' ')}" for i, n in enumerate(SIGNS, 1) if n in seen]
        judged = (
            "the mean over fresh seeds"
            if self.vote == "mean"
            else "the majority vote of fresh seeds"
        )
        text = (
            f"{sheet.dataset}, n = {counts(table['n'])}, L∞ ε = {255 * self.epsilon:.3g}/255:"
            f" accuracy in % over all images, of random defenses {judged};"
            " 95 % intervals (over several run seeds the range) in the CSV. Bold: worst case per"
            " image over all threats."
        )
        if listed:
            text += (
                f" In parentheses: signs of a failed attack ({', '.join(listed)}); no claim of"
                " robustness rests on such a cell."
            )
        if table["defense"].isin(sheet.controls).any():
            text += " † control, not a contender."
        return text
