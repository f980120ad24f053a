"""Grids of pictures: layouts, captions, alignment, and what they refuse."""

import frames
import numpy as np
import pytest
from frames import picture
from matplotlib.backends.backend_agg import FigureCanvasAgg

from tandem_defense.artifacts import pictures, style


def draw(*, heads=("original", "attacked"), note="A note.", **more):
    row = [picture((30, 30, 3), 0.1), picture((3, 30, 30), 0.2)]
    captions = [[("✓ cat", "0.1")], [("✗ dog", "0.2"), ("L₂ 0.5", "0.3")]]
    return pictures.image_grid(
        heads, ["cat", "7"], [row, [row[0], None]], [captions] * 2, note, **more
    )


def texts(figure):
    return [text.get_text() for text in figure.texts]


@pytest.mark.parametrize("shape", [(8, 9), (8, 9, 1), (1, 8, 9), (8, 9, 3), (3, 8, 9)])
def test_pixels_takes_the_usual_layouts(shape):
    assert pictures.pixels(picture(shape)).shape[:2] == (8, 9)
    assert pictures.pixels(np.full(shape, 255, np.uint8)).max() == 1
    assert pictures.in_color(picture(shape)).shape == (8, 9, 3)


@pytest.mark.parametrize("image", [np.zeros((4, 8, 9)), np.zeros(5), np.full((8, 9), 200.0)])
def test_pixels_refuses_others(image):
    with pytest.raises(ValueError, match="expected"):
        pictures.pixels(image)


def test_a_grid_has_pictures_names_captions_and_a_note():
    figure = draw()
    assert len(figure.axes) == 3  # one place is empty
    values = [np.asarray(axes.images[0].get_array()).flat[0] for axes in figure.axes]
    assert values == pytest.approx([0.1, 0.2, 0.1])
    for words in ("original", "attacked", "cat", "7", "✓ cat", "✗ dog", "L₂ 0.5", "A note."):
        assert words in texts(figure)
    assert {t.get_text(): t.get_color() for t in figure.texts}["✗ dog"] == "0.2"
    turned = {t.get_text(): t.get_rotation() for t in figure.texts}
    assert turned["cat"] == 90 and turned["7"] == 0


def test_pictures_are_aligned_and_inside():
    figure = draw()
    boxes = np.array([axes.get_position().bounds for axes in figure.axes])
    assert np.ptp(boxes[:2, 1]) < 1e-9 and np.ptp(boxes[[0, 2], 0]) < 1e-9
    assert boxes.min() > 0 and (boxes[:, 0] + boxes[:, 2]).max() <= 1
    assert figure.get_size_inches()[0] == pytest.approx(pictures.WIDTH)


def test_a_bar_stands_beside_the_first_row():
    figure = draw(bar=("inferno", "heat"))
    bar, first = figure.axes[-1], figure.axes[0]
    assert bar.get_ylabel() == "heat"
    assert bar.get_position().x0 > figure.axes[1].get_position().x1
    assert bar.get_position().y0 == pytest.approx(first.get_position().y0)


@pytest.mark.parametrize("note", ["A note.", "word " * 90])
def test_no_text_is_cut_or_covers_another(note):
    heads = (
        "unpronounceable " * 3,
        "against a classifier with a very long name that one line cannot hold",
    )
    figure = draw(heads=heads, note=note)
    figure.set_dpi(200)  # as it is saved
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    boxes = [text.get_window_extent(canvas.get_renderer()) for text in figure.texts]
    frames.check_boxes([*boxes, *(axes.get_window_extent() for axes in figure.axes)], figure)


def test_long_captions_end_in_an_ellipsis():
    text = "espresso maker"
    assert pictures._short(text, 1, 6.5) == text
    cut = pictures._short(text, 0.5, 6.5)
    assert cut.endswith("…") and text.startswith(cut[:-1]) and style.width(cut, 6.5) <= 0.5
    assert pictures._short("espresso maker", 0.01, 6.5) == "esp…"


def test_answers_have_a_mark_and_a_color():
    good = pictures.answer({"prediction": "cat", "correct": True})
    wrong = pictures.answer({"prediction": "dog", "correct": False})
    assert good == ("✓ cat", pictures.CORRECT) and wrong == ("✗ dog", pictures.WRONG)


def test_uneven_rows_are_refused():
    with pytest.raises(ValueError, match="as many rows"):
        pictures.image_grid(["a"], ["x", "y"], [[None]], [[[]]])
    with pytest.raises(ValueError, match="as many rows"):
        pictures.image_grid(["a"], [], [], [])
    with pytest.raises(ValueError, match="expected 2 images"):
        pictures.image_grid(["a", "b"], ["x"], [[picture((3, 3))]], [[[], []]])
