"""Figure 7 of the t-DIPs paper: original, attacked and restored images side by side."""

from tandem_defense.artifacts import shown
from tandem_defense.artifacts.base import Figure, Inputs, Sheet
from tandem_defense.artifacts.pictures import answer, image_grid
from tandem_defense.extras import extra
from tandem_defense.settings import AttackName, ClassifierName, Count, RestorationNames

with extra("pipeline"):
    import pandas as pd
    from matplotlib.figure import Figure as Drawing


class Restored(Figure):
    """A row per image: original, attacked, and as every defense restores it.

    classifier, attack : whose images
    defenses : restorations, in the order of the columns
    iterations : the read-out that is shown, λ₂ of t-DIPs
    first_iterations : λ₁ of t-DIPs, if one is among them
    images : how many are shown, the first that were classified correctly and are fooled
    """

    classifier: ClassifierName
    attack: AttackName
    defenses: RestorationNames
    iterations: Count
    first_iterations: Count | None = None
    images: Count = 3

    NEEDS = ("images", "attacked", "restored", "classifier")

    def draw(self, inputs: Inputs, sheet: Sheet) -> tuple[Drawing, pd.DataFrame]:
        """The figure, and a row per image and state with the classifier's answer."""
        chosen = shown.load(inputs, self, self.defenses)
        states = {"original": "original", "attacked": "attacked"}
        states |= {name: sheet.defenses[name] for name in self.defenses}
        panels = {state: chosen.panels(state) for state in states}
        rows = range(len(chosen.labels))
        drawing = image_grid(
            list(states.values()),
            chosen.titles(),
            [[panels[state][i]["image"] for state in states] for i in rows],
            [[[answer(panels[state][i])] for state in states] for i in rows],
            chosen.note(self, sheet),
        )
        return drawing, chosen.frame(panels)
