"""Figure 9: accuracy against ε in the worst case, and under random noise of the same size."""

from tandem_defense.artifacts.base import Figure, Inputs, Sheet
from tandem_defense.artifacts.curve import DASHES, MARKERS
from tandem_defense.artifacts.printing import counts, interval_of
from tandem_defense.artifacts.style import footer, style
from tandem_defense.evaluation.threats import CLEAN, WORST, robustness
from tandem_defense.extras import extra
from tandem_defense.settings import ClassifierName, ThreatName

with extra("pipeline"):
    import pandas as pd
    import seaborn as sns
    from matplotlib.figure import Figure as Drawing
    from matplotlib.ticker import PercentFormatter


class Security(Figure):
    """The worst case per image of every defense against ε, beside a control: a security curve.

    A worst case at whose ε no attacker who knows of the defense was run is drawn hollow.

    classifier : the one whose accuracy is shown
    control : the threat that is random noise, drawn in the second panel; null: no such panel
    """

    classifier: ClassifierName
    control: ThreatName | None = None

    NEEDS = ("threats",)

    def frame(self, rows: pd.DataFrame, sheet: Sheet) -> pd.DataFrame:
        """Columns ``evaluation.threats.COLUMNS`` of the worst case and the control; ε 0: clean.

        And ``aware``: whether a threat that knows of the defense was run at this ε. Raises
        ValueError where there are none of this classifier.
        """
        table = robustness(rows[rows["classifier"] == self.classifier])
        clean = table[table["threat"] == CLEAN]
        parts = []
        for threat in filter(None, (WORST, self.control)):
            points = table[table["threat"] == threat]
            both = pd.concat([clean.assign(threat=threat), points])
            parts.append(both[both["defense"].isin(points["defense"])])
        order = {name: i for i, name in enumerate(sheet.defenses)}
        points = pd.concat(parts)
        points = points.assign(place=points["defense"].map(order))
        points = points.sort_values(["threat", "place", "epsilon"], ascending=[False, True, True])
        known = rows[rows["aware"] & (rows["classifier"] == self.classifier)]
        known = set(known[["defense", "epsilon"]].itertuples(index=False, name=None))
        points["aware"] = [key in known for key in zip(points["defense"], points["epsilon"])]
        return points.drop(columns="place").reset_index(drop=True)

    def draw(self, inputs: Inputs, sheet: Sheet) -> tuple[Drawing, pd.DataFrame]:
        """The figure and its points."""
        points = self.frame(inputs.threats, sheet)
        sizes = 255 * points["epsilon"]
        unit = 255 if ((sizes - sizes.round()).abs() < 1e-3).mean() > 0.5 else 1
        panels = list(dict.fromkeys([WORST, *([self.control] if self.control else [])]))
        with style():
            drawing = Drawing(figsize=(3.4 * len(panels) + 0.2, 3.0), layout="constrained")
            grid = drawing.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
            for axes, threat in zip(grid, panels, strict=True):
                self._panel(axes, points, threat, sheet, unit)
                title = "Worst case per image" if threat == WORST else sheet.threats[threat]
                axes.set_title(title)
                axes.set_xlabel(f"L∞ bound ε{', in 1/255' if unit == 255 else ''}")
            grid[0].set_ylabel("Accuracy")
            handles, labels = grid[0].get_legend_handles_labels()
            drawing.legend(
                handles, labels, loc="outside upper center", ncol=4, frameon=False, handlelength=3.2
            )
            blind = self._blind(points).any()
            interval = interval_of(inputs.threats["seed"].nunique())
            note = (
                f"{sheet.classifiers[self.classifier]}, n = {counts(points['n'])} images of"
                f" {sheet.dataset}; {interval}; every curve is an upper bound, see the signs in"
                " Table 3"
            )
            if blind:
                note += "; hollow: no attacker knew of the defense"
            bottom = footer(drawing, note)
            drawing.get_layout_engine().set(rect=(0, bottom, 0.985, 1 - bottom))
        return drawing, points

    @staticmethod
    def _blind(points: pd.DataFrame) -> pd.Series:
        """Worst cases that leave something to those who do not know of the defense, (N,) bool."""
        shown = points["threat"].eq(WORST) & (points["epsilon"] > 0) & (points["accuracy"] > 0)
        return shown & ~points["aware"]

    def _panel(self, axes, points: pd.DataFrame, threat: str, sheet: Sheet, unit: int) -> None:
        """One line per defense, which looks the same in both panels; `unit`: 255, ε in 1/255."""
        colors = sns.color_palette("colorblind")
        places = {name: i for i, name in enumerate(points["defense"].unique())}
        points = points[points["threat"] == threat]
        for defense, line in points.groupby("defense", sort=False):
            i, x = places[defense], unit * line["epsilon"]
            color = colors[i % len(colors)]
            axes.vlines(x, line["low"], line["high"], color=color, lw=0.7, alpha=0.5)
            axes.plot(
                x,
                line["accuracy"],
                label=sheet.defenses[defense],
                color=color,
                linestyle=DASHES[i % len(DASHES)],
                marker=MARKERS[i % len(MARKERS)],
                clip_on=False,
            )
            if (blind := self._blind(line)).any():
                hollow = {"color": color, "markerfacecolor": "white", "linestyle": ""}
                marker = MARKERS[i % len(MARKERS)]
                axes.plot(x[blind], line["accuracy"][blind], marker=marker, **hollow)
        bounds = sorted({unit * e for e in points["epsilon"] if e > 0}) or [1]
        ticks = [2**k for k in range(9) if 2**k <= bounds[-1] * 1.01] if unit > 1 else bounds
        axes.set_xscale("symlog", base=2, linthresh=ticks[0])
        axes.set_xlim(0, max(ticks[-1], bounds[-1]) * 1.05)
        axes.set_xticks([0, *ticks], [f"{tick:g}" for tick in (0, *ticks)])
        axes.minorticks_off()
        axes.set_ylim(0, 1.02)
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.yaxis.grid(True, color="0.92", linewidth=0.5)
        axes.set_axisbelow(True)
        sns.despine(ax=axes)
