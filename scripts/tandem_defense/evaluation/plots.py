"""The t-DIPs paper's curves, Figures 3 and 6: accuracy against the iterations of a restoration.

Every function returns a matplotlib Figure of its own, outside pyplot's state. Series differ in
colour, line and marker at once, so that a page printed in grey still reads.
"""

from contextlib import contextmanager
from itertools import product
from pathlib import Path
from textwrap import wrap

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from tandem_defense.evaluation.tables import CELL, correct, display, rates, select

CURVES = ["attack", "defense", "first_iterations", "iteration", "n", "accuracy", "low", "high"]
GREY = "0.35"
DASHES = [(0, (4, 1.5)), "-", (0, (6, 1.2, 1.2, 1.2)), (0, (1.2, 1.2)), (0, (8, 2)), "-."]
MARKERS = ["o", "s", "^", "D", "v", "P"]
METADATA = {
    ".pdf": {"Creator": None, "Producer": None, "CreationDate": None},
    ".png": {"Software": None},
}


@contextmanager
def style():
    """The look of all figures: seaborn's ticks, small type in a font that matplotlib ships."""
    size = dict.fromkeys(("font.size", "xtick.labelsize", "ytick.labelsize"), 7)
    size |= {"axes.labelsize": 7.5, "axes.titlesize": 8, "legend.fontsize": 7}
    lines = {"axes.linewidth": 0.6, "xtick.major.width": 0.6, "ytick.major.width": 0.6}
    lines |= {"xtick.major.size": 3, "ytick.major.size": 3, "lines.linewidth": 1.1}
    lines |= {"lines.markersize": 3.4, "axes.titleweight": "bold", "axes.labelcolor": "0.15"}
    fonts = {"font.family": "DejaVu Sans", "pdf.fonttype": 42, "savefig.dpi": 200}
    with mpl.rc_context({**sns.axes_style("ticks"), **size, **lines, **fonts}):
        yield


def save(figure: Figure, *paths) -> None:
    """Write a figure to every path, PDF (fonts embedded) or PNG (200 dpi) by suffix.

    The same figure gives the same bytes: no dates, no program names. Raises ValueError for
    another suffix.
    """
    for path in map(Path, paths):
        if path.suffix not in METADATA:
            raise ValueError(f"expected a path ending in {' or '.join(METADATA)}, got {path.name}")
    with style():
        for path in map(Path, paths):
            figure.savefig(path, metadata=METADATA[path.suffix], facecolor="white")


def footer_lines(text: str, width: float) -> list[str]:
    """A footer's lines, wrapped (where one is not enough) for a figure of `width` inches."""
    return wrap(text, int(width * 24.5))


def footer(figure: Figure, text: str) -> float:
    """Print small lines at the bottom, one if the width allows; their height as a fraction."""
    width, height = figure.get_size_inches()
    lines = footer_lines(text, width)
    figure.text(
        0.06 / width, 0.05 / height, "\n".join(lines), fontsize=5.5, color=GREY, va="bottom"
    )
    return (0.05 + 0.105 * max(len(lines), 1)) / height


def curves(predictions: pd.DataFrame, spec: dict) -> pd.DataFrame:
    """The points of Figure 6 (or, from its spec, of Figure 3), columns ``CURVES``.

    Figure 6's `spec`: dataset, classifier, attacks, dip and tdips (names of defenses),
    first_iterations (a list of λ₁), iterations (the last read-out) and every (their spacing).
    Figure 3's has one attack and one defense instead. `accuracy` is the share of all images
    (right, not refused), `low` and `high` Wilson's 95 % interval, or over several seeds the range
    with the median as accuracy. Raises ValueError where rows are missing or duplicated.
    """
    steps = range(spec["every"], spec["iterations"] + 1, spec["every"])
    series = [(spec.get("dip", spec.get("defense")), 0)]
    series += [(spec["tdips"], first) for first in spec.get("first_iterations", ())]
    wanted = product(spec.get("attacks", [spec.get("attack")]), series, steps)
    cells = pd.DataFrame(
        [(attack, defense, first, step) for attack, (defense, first), step in wanted],
        columns=CURVES[:4],
    ).assign(dataset=spec["dataset"], classifier=spec["classifier"])
    rows = select(predictions, cells)
    found = rates(rows, CURVES[:4], correct(rows)).rename(columns={"rate": "accuracy"})
    return cells[CURVES[:4]].merge(found, on=CURVES[:4], how="left")[CURVES]


def _levels(predictions, spec, attacks) -> pd.Series:
    """The undefended accuracy per attack, where the predictions have it."""
    cells = pd.DataFrame({"attack": attacks}).assign(
        dataset=spec["dataset"], classifier=spec["classifier"], defense="none"
    )
    rows = select(predictions, cells[CELL])
    return rates(rows, CELL, correct(rows)).set_index("attack")["rate"]


def _axes(axes, spec) -> None:
    """What every panel shares: ticks, limits, per cent, light horizontal guides."""
    axes.set_xlim(0, spec["iterations"] * 1.03)
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10], integer=True))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.yaxis.grid(True, color="0.92", linewidth=0.5)
    axes.set_axisbelow(True)
    sns.despine(ax=axes)


def _counts(n) -> str:
    n = sorted(set(n))
    return f"n = {n[0]}" if len(n) == 1 else f"n = {n[0]}–{n[-1]}"


def figure3(predictions: pd.DataFrame, spec: dict, labels: dict, note: str = "") -> Figure:
    """Figure 3: a restoration's accuracy against its iterations under one attack.

    `spec`: dataset, classifier, attack, defense, iterations, every. With a band (Wilson's 95 %
    interval, or the range over seeds) and, as labelled lines, the undefended accuracy on clean
    and on attacked images. `note`, the threat model, goes into the footer after n. Raises
    ValueError where rows are missing or duplicated, those without defense included.
    """
    points = curves(predictions, spec)
    levels = _levels(predictions, spec, list(dict.fromkeys(["clean", spec["attack"]])))
    attack, blue = display(labels, spec["attack"]), sns.color_palette("colorblind")[0]
    with style():
        figure = Figure(figsize=(4.6, 2.9), layout="constrained")
        axes = figure.subplots()
        x = points["iteration"]
        axes.fill_between(
            x, points["low"], points["high"], color=blue, alpha=0.18, linewidth=0, label="_band"
        )
        axes.plot(x, points["accuracy"], color=blue, marker="o", label=spec["defense"])
        texts = {display(labels, spec["defense"]): (points["accuracy"].iloc[-1], blue)}
        for name, dash in (("clean", (0, (5, 2))), (spec["attack"], (0, (1, 1.5)))):
            what = "clean images" if name == "clean" else attack
            axes.axhline(levels[name], color=GREY, linewidth=0.9, linestyle=dash, label=name)
            texts[f"no defense,\n{what}"] = (levels[name], GREY)
        axes.set_ylim(-0.02, max(levels.max(), points["high"].max()) * 1.05 + 0.02)
        _label_right(axes, texts)
        _axes(axes, spec)
        axes.set(xlabel="iterations", ylabel="accuracy")
        axes.set_title(f"{display(labels, spec['classifier'])} under {attack}", loc="left")
        bottom = footer(figure, f"{_counts(points['n'])} images. {note}")
        figure.get_layout_engine().set(rect=(0, bottom, 1, 1 - bottom))
    return figure


def _label_right(axes, texts, gap: float = 0.13) -> None:
    """Labels beside the right end of lines, moved apart to `gap` of the axes' height."""
    bottom, top = axes.get_ylim()
    order = sorted(texts, key=lambda text: texts[text][0])
    heights = [(texts[text][0] - bottom) / (top - bottom) for text in order]
    for _ in range(50):  # neighbours that are too close push each other apart
        for i in range(1, len(heights)):
            push = max(0.0, heights[i - 1] + gap - heights[i]) / 2
            heights[i - 1], heights[i] = heights[i - 1] - push, heights[i] + push
    for text, height in zip(order, heights, strict=True):
        colour = texts[text][1]
        axes.text(
            1.02, height, text, transform=axes.transAxes, color=colour, va="center", fontsize=7
        )


def _series(spec, labels) -> list:
    """(defense, λ₁, label, colour, line, marker): DIP dark and open, t-DIPs on a warm ramp."""
    tandem = sns.color_palette("flare", max(len(spec["first_iterations"]), 2))
    series = [(spec["dip"], 0, display(labels, spec["dip"]), sns.color_palette("colorblind")[0])]
    for colour, first in zip(tandem, spec["first_iterations"], strict=False):
        label = f"{display(labels, spec['tdips'])}, λ₁ = {first}"
        series.append((spec["tdips"], first, label, colour))
    return [
        (*entry, DASHES[i % len(DASHES)], MARKERS[i % len(MARKERS)])
        for i, entry in enumerate(series)
    ]


def figure6(predictions: pd.DataFrame, spec: dict, labels: dict, note: str = "") -> Figure:
    """Figure 6: DIP alone and t-DIPs with several λ₁, a panel per attack (1 to 6, shared axes).

    `spec` is that of ``curves``. Bars are Wilson's 95 % interval (or the range over seeds),
    every series is shifted sideways by a few iterations so that they can be told apart. `note`,
    the threat model, goes into the footer after n. Raises ValueError for no or more than six
    attacks, and where rows are missing or duplicated.
    """
    attacks = spec["attacks"]
    if not 1 <= len(attacks) <= 6:
        raise ValueError(f"expected 1 to 6 attacks, got {len(attacks)}")
    points = curves(predictions, spec)
    columns = {1: 1, 2: 2, 3: 3, 4: 2, 5: 3, 6: 3}[len(attacks)]
    lines = -(-len(attacks) // columns)
    series = _series(spec, labels)
    dodge = (np.arange(len(series)) - (len(series) - 1) / 2) * 0.1 * spec["every"]
    with style():
        size = (4.2 if columns == 1 else 6.9, 0.65 + 2.15 * lines)
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
        for axes, attack in zip(grid.flat, attacks, strict=False):
            for shift, (defense, first, label, colour, dash, marker) in zip(
                dodge, series, strict=True
            ):
                line = points[(points["attack"] == attack) & (points["defense"] == defense)]
                line = line[line["first_iterations"] == first]
                x = line["iteration"] + shift
                axes.vlines(x, line["low"], line["high"], color=colour, lw=0.7, alpha=0.6)
                axes.plot(
                    x,
                    line["accuracy"],
                    color=colour,
                    linestyle=dash,
                    marker=marker,
                    markerfacecolor="white" if first == 0 else colour,
                    markeredgewidth=0.8,
                    label=label,
                    clip_on=False,
                )
            axes.set_title(display(labels, attack), loc="left")
            _axes(axes, spec)
        for axes in grid.flat[len(attacks) :]:
            axes.set_visible(False)
        for axes in grid.flat[max(len(attacks) - columns, 0) : len(attacks)]:
            axes.tick_params(labelbottom=True)
            axes.set_xlabel("iterations λ₂")
        for axes in grid[:, 0]:
            axes.set_ylabel("accuracy")
        grid[0, 0].set_ylim(bottom=0)
        handles, names = grid[0, 0].get_legend_handles_labels()
        figure.legend(
            handles,
            names,
            loc="outside upper center",
            ncol=2 if columns == 1 else 4,
            frameon=False,
            handlelength=3.2,
            columnspacing=1.6,
        )
        bottom = footer(figure, f"{_counts(points['n'])} images. {note}")
        figure.get_layout_engine().set(rect=(0, bottom, 1, 1 - bottom))
    return figure
