"""Table 2 of the FUNN paper: how often an attack succeeds, and how large it then is."""

from tandem_defense.artifacts.base import Inputs, Sheet, Table
from tandem_defense.artifacts.printing import Grid, Marks, cell, counts, interval_of
from tandem_defense.evaluation.rates import CELL, computed, fooled, noise_levels, rates, select
from tandem_defense.extras import extra
from tandem_defense.settings import AttackNames, Models

with extra("pipeline"):
    import pandas as pd

COLUMNS = ["dataset", "model", "attack", "n", "success_rate", "low", "high", "noise_level"]
COLUMNS += ["published_success_rate", "published_noise_level", "seeds"]


class Success(Table):
    """Success rate and noise level of every attack on classifiers behind defenses.

    models : the columns, ``{name: {classifier: …, defense: …}}``; without a defense: none
    attacks : the rows; by default all
    intervals : whether the print has them too
    published : a table of published numbers, ``resources/published/<name>.csv``
    """

    models: Models
    attacks: AttackNames | None = None
    intervals: bool = False
    published: str | None = None

    # Columns of `published`.
    PRINTED = ("dataset", "model", "attack", "success_rate", "noise_level")

    def frame(self, inputs: Inputs, sheet: Sheet) -> pd.DataFrame:
        """Columns ``COLUMNS``, shares in [0, 1].

        Only images count that the bare classifier classifies correctly when clean (n; the paper's
        k/966); success is a wrong answer that was not refused, noise_level the mean L2 of the
        successes (pixels in [0, 1]; nan without any). Over several seeds medians, with the range as
        low and high. Cells that the experiment does not compute have n = 0. Raises ValueError where
        rows are missing or duplicated, as those of a restoration with several read-outs are.
        """
        attacks = self.attacks or [name for name in sheet.attacks if name != "clean"]
        parts = [
            pd.DataFrame({"attack": list(attacks)}).assign(
                dataset=sheet.dataset, model=model, **{"defense": "none"} | which
            )
            for model, which in self.models.items()
        ]
        cells = pd.concat(parts, ignore_index=True)
        wanted = cells[CELL].drop_duplicates()
        rows = select(inputs.predictions, computed(inputs.predictions, wanted))
        rows = rows[rows["clean_prediction"] == rows["label"]]
        hits = fooled(rows)
        shares = rates(rows, CELL, hits).rename(columns={"rate": "success_rate"})
        noise = noise_levels(rows, CELL, hits)
        table = cells.merge(shares, on=CELL, how="left").merge(noise, on=CELL, how="left")
        keys = ["dataset", "model", "attack"]
        printed = inputs.published("success_rate")
        if printed is None:
            printed = pd.DataFrame(columns=[*keys, "success_rate", "noise_level"]).astype(
                {"success_rate": float, "noise_level": float}
            )
        printed = printed[[*keys, "success_rate", "noise_level"]].rename(
            columns=lambda name: name if name in keys else f"published_{name}"
        )
        table = table.merge(printed, on=keys, how="left", validate="m:1")
        return table.fillna({"n": 0, "seeds": 0}).astype({"n": int, "seeds": int})[COLUMNS]

    def grid(self, table: pd.DataFrame, sheet: Sheet, marks: Marks) -> Grid:
        """A row per attack; success in % and noise level per model, published in parentheses."""
        models, rows = list(table["model"].unique()), []
        for attack, group in table.groupby("attack", sort=False):
            cells = {model: ["–", "–"] for model in models}
            for row in group.itertuples():
                interval = (row.low, row.high) if self.intervals else ()
                rate = cell(row.success_rate, row.published_success_rate, 2, interval)
                cells[row.model] = [rate, cell(row.noise_level, row.published_noise_level)]
            rows.append([marks.text(sheet.attacks[attack]), *sum(cells.values(), [])])
        groups = tuple((marks.text(label), 2) for label in self._labels(models, sheet))
        caption = (
            f"{sheet.dataset}, n = {counts(table['n'])}: success rate in %, and mean L2 of the"
            " successes; of images that are classified correctly when clean;"
            f" {interval_of(int(table['seeds'].max()))} in the CSV; oblivious attacker (attacks on"
            " the bare classifier)."
        )
        if table.filter(like="published").notna().any(axis=None):
            caption += " In parentheses: published."
        heads = ["Success", "Noise"] * len(models)
        return Grid("Attack", heads, {"": rows}, caption, groups)

    def _labels(self, models: list[str], sheet: Sheet) -> list[str]:
        """A model is called as its defense is, undefended as its classifier; both where needed."""
        parts = [{"defense": "none"} | self.models[model] for model in models]
        defenses = [part["defense"] for part in parts]
        labels = []
        for part in parts:
            classifier, defense = sheet.classifiers[part["classifier"]], part["defense"]
            if defense == "none":
                labels.append(classifier)
            else:
                label = sheet.defenses[defense]
                labels.append(f"{classifier}, {label}" if defenses.count(defense) > 1 else label)
        return labels
