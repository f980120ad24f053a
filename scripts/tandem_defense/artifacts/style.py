"""The look of all figures, and how they are written.

Every figure is a matplotlib Figure of its own, outside pyplot's state.
"""

from contextlib import contextmanager
from pathlib import Path

from tandem_defense.extras import extra

with extra("pipeline"):
    import matplotlib as mpl
    import seaborn as sns
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextToPath


GRAY = "0.35"
FONT = "DejaVu Sans"
NOTE = 5.5  # points, a footer's letters
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
    fonts = {"font.family": FONT, "pdf.fonttype": 42, "savefig.dpi": 200}
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


def width(text: str, size: float, weight: str = "normal") -> float:
    """How wide a line of text is in a PDF, in inches; `size` in points.

    In a PNG letters stand on whole pixels, which makes a line up to 8 % wider or narrower.
    """
    font = FontProperties(family=FONT, size=size, weight=weight)
    return TextToPath().get_text_width_height_descent(text, font, ismath=False)[0] / 72


def wrap(text: str, inches: float, size: float, weight: str = "normal") -> list[str]:
    """Text in lines that are no wider than so many inches, where its words allow."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and width(longer, size, weight) <= inches:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def footer_lines(text: str, inches: float) -> list[str]:
    """A footer's lines, wrapped where one is not enough for a figure of so many inches."""
    return wrap(text, 0.92 * inches, NOTE)


def footer(figure: Figure, text: str) -> float:
    """Print small lines at the bottom, one if the width allows; their height as a fraction."""
    across, height = figure.get_size_inches()
    lines = footer_lines(text, across)
    place = (0.06 / across, 0.05 / height)
    figure.text(*place, "\n".join(lines), fontsize=NOTE, color=GRAY, va="bottom")
    return (0.05 + 0.105 * max(len(lines), 1)) / height
