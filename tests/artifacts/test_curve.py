"""Curves hold the numbers that they should, in as many panels, told apart without color."""

import frames
import numpy as np
import pandas as pd
import pytest
from frames import ATTACKS, CURVES, SERIES
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex

from tandem_defense.artifacts.curve import COLUMNS, Curve

COMMON = dict(experiment="tdips", classifier="inception_v3", iterations=400, every=100)
ONE = COMMON | {"attacks": ["bim"], "defenses": ["dip"]}  # as Figure 3
FOUR = COMMON | {"attacks": ["bim", "cw"], "defenses": ["dip", "tdips"]}  # as Figure 6


@pytest.fixture(scope="module")
def rows():
    return frames.curves()


@pytest.fixture(scope="module")
def draw(rows):
    """The figure and the points of some settings, and of other rows."""

    def draw(settings, predictions=rows):
        return Curve(**settings).draw(frames.inputs(predictions), CURVES)

    return draw


def lines(axes):
    return {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}


def texts(figure):
    return " ".join(text.get_text() for text in figure.texts)


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def seeds(rows, **columns):
    return pd.concat([rows, rows.assign(seed=1, **columns)])


# Points


def test_points_by_hand(rows):
    points = Curve(**FOUR | {"attacks": ["cw", "bim"]}).frame(rows, CURVES)
    assert list(points) == COLUMNS and len(points) == 2 * 4 * 4
    assert points["attack"].drop_duplicates().tolist() == ["cw", "bim"]
    assert points["iteration"].tolist()[:5] == [100, 200, 300, 400, 100]
    line = points[(points["attack"] == "bim") & (points["first_iterations"] == 200)]
    assert line["accuracy"].tolist() == [0.6, 0.7, 0.8, 0.9] and set(line["n"]) == {10}
    assert line["low"].iloc[0] == pytest.approx(0.3127, abs=1e-4)  # Wilson of 6 of 10
    alone = Curve(**ONE).frame(rows, CURVES)
    assert alone["accuracy"].tolist() == [0.3, 0.4, 0.5, 0.6]


def test_over_seeds_median_and_range(rows):
    points = Curve(**ONE).frame(seeds(rows, prediction=3), CURVES)
    assert points["low"].tolist() == [0, 0, 0, 0] and points["high"].iloc[0] == 0.3
    assert points["accuracy"].iloc[0] == 0.15 and set(points["seeds"]) == {2}


def test_a_hole_is_named(rows):
    hole = rows.drop(rows.index[(rows["iteration"] == 200)][3])
    with pytest.raises(ValueError, match="iteration 200.*found 9 rows.*missing: i3"):
        Curve(**ONE).frame(hole, CURVES)


@pytest.mark.parametrize(
    "asked, expected", [(None, SERIES), ([300, 100], [SERIES[0], SERIES[3], SERIES[1]])]
)
def test_first_iterations_are_all_or_those_asked_for(rows, asked, expected):
    points = Curve(**FOUR, first_iterations=asked).frame(rows, CURVES)
    series = points[["defense", "first_iterations"]].drop_duplicates()
    assert list(series.itertuples(index=False, name=None)) == expected


def test_what_was_not_computed_is_named(rows):
    with pytest.raises(ValueError, match=r"first_iterations 400.*\(100, 50\), \(100, 100\)"):
        Curve(**FOUR, first_iterations=[100, 400]).frame(rows, CURVES)
    with pytest.raises(ValueError, match="defense hgd.*found 0 rows"):
        Curve(**ONE | {"defenses": ["hgd"]}).frame(rows, CURVES)
    with pytest.raises(ValueError, match="iteration 500.*found 0 rows"):
        Curve(**ONE | {"iterations": 500}).frame(rows, CURVES)


# Drawings


def test_one_attack_with_levels(draw):
    figure, points = draw(ONE | {"levels": True})
    (axes,) = figure.axes
    drawn = lines(axes)
    assert list(drawn["DIP"].get_ydata()) == [0.3, 0.4, 0.5, 0.6]
    assert list(drawn["DIP"].get_xdata()) == [100, 200, 300, 400]
    assert set(drawn["no defense, clean"].get_ydata()) == {0.9}
    assert set(drawn["no defense, attacked"].get_ydata()) == {0.1}
    assert legend(figure) == ["DIP", "no defense, clean", "no defense, attacked"]
    assert len({line.get_linestyle() for line in drawn.values()}) > 1
    bars = np.array(axes.collections[0].get_segments())
    assert bars[:, :, 1] == pytest.approx(points[["low", "high"]].to_numpy())
    assert "n = 10 images" in texts(figure) and "oblivious attacker" in texts(figure)
    assert "95 % Wilson intervals" in texts(figure)
    assert not lines(draw(ONE)[0].axes[0]).keys() & {"no defense, clean", "no defense, attacked"}


def test_levels_are_each_attacks_own_and_medians_over_seeds(rows, draw):
    better = rows.copy()
    bare = (better["defense"] == "none") & (better["attack"] == "cw") & (better["image"] < "i4")
    better.loc[bare, "prediction"] = 7
    figure, _ = draw(FOUR | {"levels": True}, seeds(better, prediction=7))
    heights = [
        {label: line.get_ydata()[0] for label, line in lines(axes).items()} for axes in figure.axes
    ]
    assert [h["no defense, attacked"] for h in heights] == pytest.approx([0.55, 0.7])
    assert {h["no defense, clean"] for h in heights} == {0.95}
    assert "median and range over 2 seeds" in texts(figure)


@pytest.mark.parametrize("count", [1, 2, 4, 5, 6])
def test_a_panel_per_attack(draw, count):
    attacks = list(ATTACKS)[:count]
    figure, points = draw(FOUR | {"attacks": attacks})
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert len(shown) == count
    assert [axes.get_title(loc="left") for axes in shown] == [ATTACKS[name] for name in attacks]
    for axes, attack in zip(shown, attacks, strict=True):
        drawn = lines(axes)
        assert len(drawn) == 4
        for label, (defense, first) in zip(drawn, SERIES, strict=True):
            line = points[(points["attack"] == attack) & (points["defense"] == defense)]
            line = line[line["first_iterations"] == first]
            assert list(drawn[label].get_ydata()) == line["accuracy"].tolist()
            assert np.abs(drawn[label].get_xdata() - line["iteration"]).max() < 25
        bar = axes.collections[0].get_segments()[0]
        assert bar[:, 0] == pytest.approx(drawn["DIP"].get_xdata()[0])
        assert bar[:, 1] == pytest.approx(points[["low", "high"]].iloc[0].to_numpy(), abs=1e-6)
    assert legend(figure) == ["DIP", *(f"t-DIPs, λ₁ = {first}" for first in (100, 200, 300))]
    assert "n = 10 images" in texts(figure)


def test_series_differ_in_color_and_line_and_marker(draw):
    drawn = list(lines(draw(FOUR)[0].axes[0]).values())
    assert len({line.get_marker() for line in drawn}) == 4
    assert len({str(line._dash_pattern) for line in drawn}) == 4
    assert len({to_hex(line.get_color()) for line in drawn}) == 4
    assert [line.get_markerfacecolor() == "white" for line in drawn] == [True, False, False, False]


@pytest.mark.parametrize("settings", [ONE, FOUR, FOUR | {"attacks": list(ATTACKS)}])
def test_nothing_is_cut_or_covered(draw, settings):
    figure, _ = draw(settings | {"levels": True})
    figure.set_dpi(200)  # as it is saved
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    boxes = [artist.get_window_extent(renderer) for artist in (*figure.legends, *figure.texts)]
    boxes += [axes.get_tightbbox(renderer) for axes in figure.axes]
    frames.check_boxes(boxes, figure)


def test_attacks_are_asked_for():
    with pytest.raises(ValueError, match="attacks: found"):
        Curve(**ONE | {"attacks": []})
