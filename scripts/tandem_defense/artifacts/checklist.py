"""The checklist of Carlini et al. 2019, filled from a run."""

from typing import Literal

from tandem_defense.artifacts.base import Inputs, Sheet, Table
from tandem_defense.artifacts.printing import Grid, Marks, counts
from tandem_defense.evaluation.checklist import checklist
from tandem_defense.extras import extra

with extra("pipeline"):
    import pandas as pd


class Checklist(Table):
    """What an evaluation of robustness has to have done, and whether this one has.

    vote : see Table 3 (``robustness``)
    """

    vote: Literal["mean", "majority"] = "mean"

    NEEDS = ("threats",)

    def frame(self, inputs: Inputs, sheet: Sheet) -> pd.DataFrame:
        """Columns ``evaluation.checklist.COLUMNS``, a row per question, and ``n``."""
        rows = inputs.threats
        table = checklist(rows, self.vote, sheet.controls)
        return table.assign(n=rows.groupby(["classifier", "defense"])["image"].nunique().max())

    def grid(self, table: pd.DataFrame, sheet: Sheet, marks: Marks) -> Grid:
        """A block per part of the checklist."""
        blocks: dict[str, list[list[str]]] = {}
        for row in table.itertuples():
            answer = marks.bold.format(row.answer) if row.answer == "no" else row.answer
            cells = [marks.text(row.question), answer, marks.text(row.evidence)]
            blocks.setdefault(marks.text(row.part), []).append(cells)
        caption = (
            f"{sheet.dataset}, n = {counts(table['n'])}: what Carlini et al. 2019 (On Evaluating"
            " Adversarial Robustness) ask of an evaluation, answered from this run. A no names"
            " the classifier and defense that it is of, and their threats."
        )
        columns = ["Answer", "What says so"]
        return Grid("Question", columns, blocks, caption, blocks_are="Part", prose=True)
