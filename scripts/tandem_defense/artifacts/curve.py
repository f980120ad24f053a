"""Figures 3 and 6 of the t-DIPs paper: accuracy against the iterations of restorations."""

from collections.abc import Iterator
from itertools import product

import numpy as np

from tandem_defense.artifacts.base import Figure, Inputs, Sheet
from tandem_defense.artifacts.printing import counts, interval_of
from tandem_defense.artifacts.style import GRAY, footer, style
from tandem_defense.evaluation.rates import CELL, correct, rates, select
from tandem_defense.extras import extra
from tandem_defense.settings import AttackNames, ClassifierName, Count, RestorationNames, Steps

with extra("pipeline"):
    import pandas as pd
    import seaborn as sns
    from matplotlib.figure import Figure as Drawing
    from matplotlib.ticker import MaxNLocator, PercentFormatter

COLUMNS = ["attack", "defense", "first_iterations", "iteration", "n", "accuracy", "low", "high"]
COLUMNS += ["seeds"]
# Series differ in color, line and marker at once: a page printed in gray still reads.
DASHES = ["-", (0, (4, 1.5)), (0, (6, 1.2, 1.2, 1.2)), (0, (1.2, 1.2)), (0, (8, 2)), "-."]
MARKERS = ["o", "s", "^", "D", "v", "P"]


class Curve(Figure):
    """A panel per attack with a series per restoration and λ₁.

    classifier : the one whose accuracy is shown
    attacks : the panels
    defenses : restorations, in the legend's order
    iterations : the last read-out shown
    every : iterations between two read-outs
    first_iterations : the values of λ₁ that are shown; by default all that there are
    levels : whether lines show the undefended accuracy, on clean images and under the attack
    """

    classifier: ClassifierName
    attacks: AttackNames
    defenses: RestorationNames
    iterations: Count
    every: Count
    first_iterations: Steps | None = None
    levels: bool = False

    CONDITIONS = {"every <= iterations": "read-outs are every so many iterations, up to the last"}

    def series(self, rows: pd.DataFrame) -> list[tuple[str, int]]:
        """(defense, λ₁) of every line; λ₁ is 0 for what has no first network."""
        lines = []
        for name in self.defenses:
            known = sorted(set(rows["first_iterations"][rows["defense"] == name])) or [0]
            lines += [(name, n) for n in (self.first_iterations if known[-1] else None) or known]
        return lines

    def frame(self, rows: pd.DataFrame, sheet: Sheet) -> pd.DataFrame:
        """The points, columns ``COLUMNS``.

        accuracy is the share of all images that are classified correctly and not refused, low and
        high Wilson's 95 % interval, or over several seeds the range with the median as accuracy.
        Raises ValueError where rows are missing or duplicated.
        """
        steps = range(self.every, self.iterations + 1, self.every)
        keys = COLUMNS[:4]
        wanted = product(self.attacks, self.series(rows), steps)
        cells = pd.DataFrame(
            [(attack, defense, first, step) for attack, (defense, first), step in wanted],
            columns=keys,
        ).assign(dataset=sheet.dataset, classifier=self.classifier)
        chosen = select(rows, cells)
        shares = rates(chosen, keys, correct(chosen)).rename(columns={"rate": "accuracy"})
        return cells[keys].merge(shares, on=keys, how="left")[COLUMNS]

    def draw(self, inputs: Inputs, sheet: Sheet) -> tuple[Drawing, pd.DataFrame]:
        """The figure and its points."""
        rows = inputs.predictions
        points = self.frame(rows, sheet)
        levels = self._levels(rows, sheet) if self.levels else None
        count = len(self.attacks)
        columns = {1: 1, 2: 2, 3: 3, 4: 2, 5: 3, 6: 3}.get(count, 4)
        lines = -(-count // columns)
        with style():
            size = (4.6 if columns == 1 else 6.9, 0.75 + 2.15 * lines)
            drawing = Drawing(figsize=size, layout="constrained")
            grid = drawing.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
            for axes, attack in zip(grid.flat, self.attacks, strict=False):
                self._panel(axes, points[points["attack"] == attack], sheet)
                if levels is not None:
                    _level(axes, levels["clean"], (0, (5, 2)), "no defense, clean")
                    _level(axes, levels[attack], (0, (1, 1.5)), "no defense, attacked")
                axes.set_title(sheet.attacks[attack], loc="left")
            for axes in grid.flat[count:]:
                axes.set_visible(False)
            for axes in grid.flat[max(count - columns, 0) : count]:
                axes.tick_params(labelbottom=True)
                axes.set_xlabel("iterations")
            for axes in grid[:, 0]:
                axes.set_ylabel("accuracy")
            grid[0, 0].set_ylim(bottom=-0.02)
            handles, labels = grid[0, 0].get_legend_handles_labels()
            deep = -(-len(labels) // (3 if columns == 1 else 4))
            drawing.legend(
                handles,
                labels,
                loc="outside upper center",
                ncol=-(-len(labels) // deep),
                frameon=False,
                handlelength=3.2,
                columnspacing=1.6,
            )
            interval = interval_of(int(points["seeds"].max()))
            note = (
                f"{sheet.classifiers[self.classifier]}, n = {counts(points['n'])} images of"
                f" {sheet.dataset}; {interval}; oblivious attacker"
            )
            bottom = footer(drawing, note)
            drawing.get_layout_engine().set(rect=(0, bottom, 0.985, 1 - bottom))
        return drawing, points

    def _levels(self, rows: pd.DataFrame, sheet: Sheet) -> pd.Series:
        """The undefended accuracy on clean images and under every attack."""
        attacks = list(dict.fromkeys(["clean", *self.attacks]))
        cells = pd.DataFrame({"attack": attacks}).assign(
            dataset=sheet.dataset, classifier=self.classifier, defense="none"
        )
        bare = select(rows, cells[CELL])
        return rates(bare, CELL, correct(bare)).set_index("attack")["rate"]

    def _panel(self, axes, points: pd.DataFrame, sheet: Sheet) -> None:
        """The lines of one attack, shifted sideways a little so that they can be told apart."""
        series = list(self._styles(points, sheet))
        dodge = (np.arange(len(series)) - (len(series) - 1) / 2) * 0.1 * self.every
        for shift, (line, look) in zip(dodge, series, strict=True):
            x = line["iteration"] + shift
            axes.vlines(x, line["low"], line["high"], color=look["color"], lw=0.7, alpha=0.6)
            axes.plot(x, line["accuracy"], markeredgewidth=0.8, clip_on=False, **look)
        axes.set_xlim(0, self.iterations * 1.03)
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10], integer=True))
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.yaxis.grid(True, color="0.92", linewidth=0.5)
        axes.set_axisbelow(True)
        sns.despine(ax=axes)

    def _styles(self, points: pd.DataFrame, sheet: Sheet) -> Iterator[tuple[pd.DataFrame, dict]]:
        """Each line's points and look: DIP dark and open, t-DIPs on a warm ramp of λ₁."""
        keys = points[["defense", "first_iterations"]].drop_duplicates()
        series = list(keys.itertuples(index=False, name=None))
        warm = iter(sns.color_palette("flare", max(sum(first > 0 for _, first in series), 2)))
        cold = iter(sns.color_palette("colorblind"))
        for i, (defense, first) in enumerate(series):
            color = next(warm if first else cold)
            line = points[(points["defense"] == defense) & (points["first_iterations"] == first)]
            yield (
                line,
                {
                    "label": sheet.defenses[defense] + (f", λ₁ = {first}" if first else ""),
                    "color": color,
                    "linestyle": DASHES[i % len(DASHES)],
                    "marker": MARKERS[i % len(MARKERS)],
                    "markerfacecolor": color if first else "white",
                },
            )


def _level(axes, height: float, dash: tuple, label: str) -> None:
    axes.axhline(height, color=GRAY, linewidth=0.9, linestyle=dash, label=label)
