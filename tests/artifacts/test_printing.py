"""Cells and grids as Markdown and LaTeX."""

import frames
import pytest

from tandem_defense.artifacts.printing import (
    LATEX,
    MARKDOWN,
    Grid,
    cell,
    counts,
    escape,
    interval_of,
    latex,
    markdown,
    number,
)


@pytest.mark.parametrize(
    "value, text", [(0.0075, "0.0075"), (1.25, "1.25"), (0.07, "0.07"), (0, "0.00"), (None, "–")]
)
def test_noise_levels_keep_their_digits(value, text):
    assert number(value) == text


def test_a_cell_has_value_interval_and_published_number():
    nan = float("nan")
    assert cell(0.672, 0.67, 1, (0.642, 0.701), "**{}**") == "**67.2** [64.2, 70.1] (67.0)"
    assert cell(0.672, nan, 1) == "67.2" and cell(nan, nan) == "–"


def test_counts_are_a_number_or_a_range():
    assert [counts(n) for n in ([8, 8], [21, 8, 9], [float("nan"), 3], [])] == (
        ["8", "8–21", "3", "0"]
    )


def test_what_low_and_high_are():
    assert interval_of(1) == "95 % Wilson intervals"
    assert interval_of(3) == "median and range over 3 seeds"


def grid(marks, **more):
    rows = [[marks.text("a_b | 50 %"), "1", "–"], [marks.control.format("c"), "2", "3"]]
    blocks = {marks.text("λ₁ & ∞"): rows, marks.text("ε²"): rows[:1]}
    return Grid("Name", ["x", "y"], blocks, "n = 4, λ₂ ≤ 50 %.", blocks_are="Block", **more)


def test_markdown_has_titles_beside_the_first_row_and_escapes_pipes():
    lines = markdown(grid(MARKDOWN)).splitlines()
    assert lines[0] == "n = 4, λ₂ ≤ 50 %." and lines[1] == ""
    cells = [[c.strip() for c in line[1:-1].replace(r"\|", "/").split("|")] for line in lines[2:]]
    assert cells[0] == ["Block", "Name", "x", "y"]
    assert set(cells[1][0]) == {":", "-"} and cells[1][2].endswith(":")
    assert cells[2:] == [
        ["λ₁ & ∞", "a_b / 50 %", "1", "–"],
        ["", "*c* †", "2", "3"],
        ["ε²", "a_b / 50 %", "1", "–"],
    ]


def test_markdown_names_groups_in_every_column():
    text = markdown(grid(MARKDOWN, groups=(("One", 1), ("Two", 1))))
    assert "One: x" in text and "Two: y" in text


def test_latex_is_balanced_and_escaped():
    assert frames.check_latex(latex(grid(LATEX))) == 3
    text = latex(grid(LATEX, groups=((LATEX.text("A & B"), 2),)))
    assert frames.check_latex(text) == 3
    assert r"\multicolumn{2}{c}{A \& B}" in text and r"\cmidrule(lr){2-3}" in text
    assert r"\caption{n = 4, $\lambda$$_2$ $\leq$ 50 \%.}" in text


def test_escape_knows_every_special():
    specials = "\\~^&%$#_{}"
    text = escape(specials)
    for character in "&%$#_{}":
        assert rf"\{character}" in text
    assert r"\textbackslash{}" in text and r"\textasciitilde{}" in text
