"""Printing tables: the same cells for Markdown and LaTeX, which differ in marks and frames."""

from collections.abc import Callable
from dataclasses import dataclass

from tandem_defense.extras import extra

with extra("pipeline"):
    import pandas as pd
    from tabulate import tabulate


SPECIALS = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
SPECIALS |= {mark: rf"\{mark}" for mark in "&%$#_{}"} | {"–": "--", "…": r"\ldots{}"}
SPECIALS |= {"∞": r"$\infty$", "λ": r"$\lambda$", "ε": r"$\varepsilon$", "δ": r"$\delta$"}
SPECIALS |= {"≤": r"$\leq$", "≥": r"$\geq$", "×": r"$\times$", "±": r"$\pm$", "−": "$-$"}
SPECIALS |= {"β": r"$\beta$"}
SPECIALS |= {"²": "$^2$", "†": r"$^\dagger$"} | {s: f"$_{i}$" for i, s in enumerate("₀₁₂₃₄₅₆₇₈₉")}


def escape(text: str) -> str:
    """Text for LaTeX: its specials escaped, the signs of our labels as mathematics.

    >>> print(escape("DeepFool (L∞, 50 %) & more_of_it"))
    DeepFool (L$\\infty$, 50 \\%) \\& more\\_of\\_it
    """
    return "".join(SPECIALS.get(character, character) for character in str(text))


@dataclass(frozen=True)
class Marks:
    """How a format marks a cell's text."""

    bold: str
    control: str
    text: Callable[[str], str]


MARKDOWN = Marks("**{}**", "*{}* †", lambda text: str(text).replace("|", r"\|"))
LATEX = Marks(r"\textbf{{{}}}", r"\textit{{{}}}$^\dagger$", escape)


@dataclass(frozen=True)
class Grid:
    """A table ready to print; all texts but the caption are marked and escaped already.

    stub : heads the names at the left of the rows
    columns : heads the others
    groups : headings over so many columns each; may be empty
    blocks : title to rows, each a name and its cells; one block without a title has the key ""
    blocks_are : what the titles are, e.g. "Classifier"
    prose : the columns hold sentences, not numbers
    caption : dataset, n, what is counted, interval, threat model
    """

    stub: str
    columns: list[str]
    blocks: dict[str, list[list[str]]]
    caption: str
    groups: tuple[tuple[str, int], ...] = ()
    blocks_are: str = ""
    prose: bool = False


def markdown(grid: Grid) -> str:
    """A pipe table below its caption; a block's title stands beside its first row."""
    over = [name for name, count in grid.groups for _ in range(count)]
    columns = [f"{g}: {c.lower()}" for g, c in zip(over, grid.columns)] or grid.columns
    titled = [grid.blocks_are] if grid.blocks_are else []
    rows = [
        [*([title if i == 0 else ""] if titled else []), *row]
        for title, block in grid.blocks.items()
        for i, row in enumerate(block)
    ]
    left = len(titled) + 1
    align = ["left"] * left + ["left" if grid.prose else "right"] * len(columns)
    head = [*titled, grid.stub, *columns]
    body = tabulate(rows, head, tablefmt="pipe", colalign=align, disable_numparse=True)
    return f"{grid.caption.strip()}\n\n{body}\n"


def latex(grid: Grid) -> str:
    """A table environment that needs booktabs; a block's title is a line of its own."""
    head = [_row([grid.stub, *grid.columns])]
    if grid.groups:
        spans = [rf"\multicolumn{{{n}}}{{c}}{{{name}}}" for name, n in grid.groups]
        starts = [2 + sum(n for _, n in grid.groups[:i]) for i in range(len(grid.groups))]
        rules = (
            rf"\cmidrule(lr){{{start}-{start + n - 1}}}"
            for start, (_, n) in zip(starts, grid.groups, strict=True)
        )
        head = [_row(["", *spans]), "".join(rules), *head]
    body = []
    for title, block in grid.blocks.items():
        span = rf"\multicolumn{{{len(grid.columns) + 1}}}{{c}}{{{title}}} \\"
        body += [r"\midrule", *([span, r"\midrule"] if title else []), *map(_row, block)]
    lines = [r"\begin{table}", r"\centering", r"\small"]
    lines += [rf"\caption{{{escape(grid.caption.strip())}}}"]
    width = rf"p{{{0.9 / (1 + len(grid.columns)):.2f}\linewidth}}"
    columns = width * (1 + len(grid.columns)) if grid.prose else "l" + "r" * len(grid.columns)
    lines += [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", *head, *body]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def _row(cells: list[str]) -> str:
    return " & ".join(cell.replace("–", "--") for cell in cells) + r" \\"


def number(value: float, digits: int | None = None) -> str:
    """A percentage with `digits` decimals; without, a noise level with two (or two digits)."""
    if pd.isna(value):
        return "–"
    if digits is not None:
        return f"{100 * value:.{digits}f}"
    return f"{value:.2f}" if value >= 0.01 or value == 0 else f"{value:.2g}"


def cell(
    value: float,
    published: float,
    digits: int | None = None,
    interval: tuple = (),
    mark: str = "{}",
) -> str:
    """One cell, e.g. '**67.2** [64.2, 70.1] (67.2)': value, interval, (published)."""
    text = mark.format(number(value, digits))
    if interval:
        text += f" [{', '.join(number(end, digits) for end in interval)}]"
    return text if pd.isna(published) else f"{text} ({number(published, digits)})"


def counts(n) -> str:
    """'8' or '8–21', from numbers of images."""
    known = sorted({int(count) for count in n if not pd.isna(count)})
    return "–".join(str(count) for count in dict.fromkeys([known[0], known[-1]])) if known else "0"


def points(difference: float) -> str:
    """A difference of two shares in points of a hundred, with its sign.

    >>> points(-0.125)
    '−12.5'
    """
    return f"{100 * difference:+.1f}".replace("-", "−")


def interval_of(seeds: int) -> str:
    """What low and high are, in words."""
    return "95 % Wilson intervals" if seeds == 1 else f"median and range over {seeds} seeds"
