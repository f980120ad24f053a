"""Figures come out the same twice, with their fonts, in two formats; footers wrap."""

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imread

from tandem_defense.artifacts import style


def figure():
    with style.style():
        drawing = Figure(figsize=(3, 2))
        drawing.subplots().plot([1, 2], label="λ₁")
        style.footer(drawing, "n = 10 images; oblivious attacker")
    return drawing


def test_files_are_the_same_twice(tmp_path):
    for name in ("one", "two"):
        style.save(figure(), tmp_path / f"{name}.pdf", tmp_path / f"{name}.png")
    for suffix in ("pdf", "png"):
        one, two = (tmp_path / f"{name}.{suffix}" for name in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()
    pdf = (tmp_path / "one.pdf").read_bytes()
    assert b"/FontFile2" in pdf and b"CreationDate" not in pdf and b"Type3" not in pdf
    assert imread(tmp_path / "one.png").shape[:2] == (400, 600)


def test_save_knows_two_formats(tmp_path):
    with pytest.raises(ValueError, match="ending in .pdf or .png, got figure.jpg"):
        style.save(figure(), tmp_path / "figure.pdf", tmp_path / "figure.jpg")
    assert not list(tmp_path.iterdir())


def test_long_footers_wrap():
    lines = style.footer_lines("word " * 60, 4.6)
    assert len(lines) > 2 and " ".join(lines).split() == ["word"] * 60
    assert all(4 < style.width(line, style.NOTE) < 4.6 for line in lines[:-1])
    assert style.footer_lines("", 4.6) == []
    assert style.footer_lines("a word", 4.6) == ["a word"]


def test_a_footer_takes_the_height_of_its_lines():
    long = "word " * 60
    one, more = (style.footer(Figure(figsize=(4.6, 2)), text) for text in ("a word", long))
    lines = len(style.footer_lines(long, 4.6))
    assert one == pytest.approx(0.155 / 2) and more == pytest.approx((0.05 + 0.105 * lines) / 2)


@pytest.mark.parametrize("text", ["classified correctly", "λ₁ = 100, λ₂ = 1000; ✓ ✗", "WWW iii"])
@pytest.mark.parametrize("weight", ["normal", "bold"])
def test_widths_are_those_that_are_drawn(text, weight):
    figure = Figure(figsize=(4, 1), dpi=200)
    with style.style():
        drawn = figure.text(0, 0, text, fontsize=7.5, fontweight=weight)
        box = drawn.get_window_extent(FigureCanvasAgg(figure).get_renderer())
    assert style.width(text, 7.5, weight) == pytest.approx(box.width / figure.dpi, rel=0.08)
