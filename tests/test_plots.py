"""Figures hold the numbers that they should, in as many axes, and come out the same twice."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from tandem_defense.evaluation import panels, plots

LABELS = {"bim": "BIM", "cw": "C&W", "dip": "DIP", "tdips": "t-DIPs", "inception_v3": "Inception"}
NOTE = "Adversarial images are made against the bare classifier."
COMMON = {"dataset": "nips2017", "classifier": "inception_v3", "iterations": 400, "every": 100}
SPEC3 = COMMON | {"attack": "bim", "defense": "dip"}
SPEC6 = COMMON | {"dip": "dip", "tdips": "tdips", "first_iterations": [100, 200, 300]}
ATTACKS = ["bim", "cw", "fgsm", "deepfool", "mifgsm", "jsma"]
SERIES = [("dip", 0), ("tdips", 100), ("tdips", 200), ("tdips", 300)]
RIGHT = {0: 2, 100: 3, 200: 5, 300: 6}  # images of ten that are right, plus one per read-out


def rows(right, attack, defense="none", first=0, step=0, seed=0, n=10):
    label = np.zeros(n, dtype=int)
    return pd.DataFrame(
        {
            "dataset": "nips2017",
            "seed": seed,
            "classifier": "inception_v3",
            "attack": attack,
            "defense": defense,
            "first_iterations": first,
            "iteration": step,
            "image": [f"i{k}" for k in range(n)],
            "label": label,
            "clean_prediction": label,
            "prediction": (np.arange(n) >= right).astype(int),
            "rejected": False,
            "success": True,
            "linf": 0.03,
            "l2": 1.0,
        }
    )


@pytest.fixture(scope="module")
def predictions():
    """Ten images; every 50 iterations a read-out, of which the figures take every second."""
    parts = [rows(9, "clean")]
    for attack in ATTACKS:
        parts.append(rows(1, attack))
        for defense, first in SERIES:
            for step in range(50, 451, 50):
                right = RIGHT[first] + step // 100 if step % 100 == 0 else 0
                parts.append(rows(right, attack, defense, first, step))
    return pd.concat(parts, ignore_index=True)


def test_curves_by_hand(predictions):
    points = plots.curves(predictions, SPEC6 | {"attacks": ["cw", "bim"]})
    assert list(points) == plots.CURVES and len(points) == 2 * 4 * 4
    assert points["attack"].drop_duplicates().tolist() == ["cw", "bim"]
    assert points["iteration"].tolist()[:5] == [100, 200, 300, 400, 100]
    line = points[(points["attack"] == "bim") & (points["first_iterations"] == 200)]
    assert line["accuracy"].tolist() == [0.6, 0.7, 0.8, 0.9] and set(line["n"]) == {10}
    assert line["low"].iloc[0] == pytest.approx(0.3127, abs=1e-4)  # Wilson of 6 of 10
    alone = plots.curves(predictions, SPEC3)
    assert alone["accuracy"].tolist() == [0.3, 0.4, 0.5, 0.6]


def test_curves_over_seeds_and_with_a_hole(predictions):
    other = predictions.assign(seed=1, prediction=1)
    points = plots.curves(pd.concat([predictions, other]), SPEC3)
    assert points["low"].tolist() == [0, 0, 0, 0] and points["high"].iloc[0] == 0.3
    assert points["accuracy"].iloc[0] == 0.15
    hole = predictions.drop(predictions.index[(predictions["iteration"] == 200)][3])
    with pytest.raises(ValueError, match="iteration 200.*found 9 rows.*missing: i3"):
        plots.curves(hole, SPEC3)


def lines(axes):
    return {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}


def texts(figure):
    return " ".join(text.get_text() for text in figure.texts)


def test_figure3(predictions):
    figure = plots.figure3(predictions, SPEC3, LABELS, NOTE)
    (axes,) = figure.axes
    drawn = lines(axes)
    assert list(drawn["dip"].get_ydata()) == [0.3, 0.4, 0.5, 0.6]
    assert list(drawn["dip"].get_xdata()) == [100, 200, 300, 400]
    assert set(drawn["clean"].get_ydata()) == {0.9} and set(drawn["bim"].get_ydata()) == {0.1}
    assert {text.get_text() for text in axes.texts} == {
        "DIP",
        "no defense,\nclean images",
        "no defense,\nBIM",
    }
    points = plots.curves(predictions, SPEC3)
    band = axes.collections[0].get_paths()[0].get_extents()
    assert (band.y0, band.y1) == pytest.approx((points["low"].min(), points["high"].max()))
    assert "n = 10 images" in texts(figure) and "bare classifier" in texts(figure)


def test_labels_beside_lines_keep_apart(predictions):
    close = predictions.copy()
    bare = (close["defense"] == "none") & (close["image"] < "i6")
    close.loc[bare, "prediction"] = 0  # undefended 60 % and 90 %, DIP 60 % in the end
    figure = plots.figure3(close, SPEC3, LABELS, NOTE)
    heights = sorted(text.get_position()[1] for text in figure.axes[0].texts)
    assert min(np.diff(heights)) > 0.12


@pytest.mark.parametrize("count", [1, 2, 4, 5, 6])
def test_figure6(predictions, count):
    spec = SPEC6 | {"attacks": ATTACKS[:count]}
    figure = plots.figure6(predictions, spec, LABELS, NOTE)
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert len(shown) == count
    assert [axes.get_title(loc="left") for axes in shown][:2] == ["BIM", "C&W"][:count]
    points = plots.curves(predictions, spec)
    for axes, attack in zip(shown, spec["attacks"], strict=True):
        drawn = lines(axes)
        assert len(drawn) == 4
        for label, (defense, first) in zip(drawn, SERIES, strict=True):
            line = points[(points["attack"] == attack) & (points["defense"] == defense)]
            line = line[line["first_iterations"] == first]
            assert list(drawn[label].get_ydata()) == line["accuracy"].tolist()
            assert np.abs(drawn[label].get_xdata() - line["iteration"]).max() < 25
        first = drawn["DIP"]
        bar = axes.collections[0].get_segments()[0]
        assert bar[:, 0] == pytest.approx(first.get_xdata()[0])
        assert bar[:, 1] == pytest.approx(points[["low", "high"]].iloc[0].to_numpy(), abs=1e-6)
    styles = {(line.get_linestyle(), line.get_marker()) for line in lines(shown[0]).values()}
    assert len({marker for _, marker in styles}) == 4
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "DIP",
        *(f"t-DIPs, λ₁ = {first}" for first in (100, 200, 300)),
    ]
    assert "n = 10 images" in texts(figure)


@pytest.mark.parametrize("attacks", [[], ATTACKS + ["none"]])
def test_figure6_has_one_to_six_panels(predictions, attacks):
    with pytest.raises(ValueError, match="expected 1 to 6 attacks"):
        plots.figure6(predictions, SPEC6 | {"attacks": attacks}, LABELS)


def test_files_are_the_same_twice(predictions, tmp_path):
    for name in ("one", "two"):
        figure = plots.figure6(predictions, SPEC6 | {"attacks": ["bim", "cw"]}, LABELS, NOTE)
        plots.save(figure, tmp_path / f"{name}.pdf", tmp_path / f"{name}.png")
    for suffix in ("pdf", "png"):
        assert (tmp_path / f"one.{suffix}").read_bytes() == (
            tmp_path / f"two.{suffix}"
        ).read_bytes()
    pdf = (tmp_path / "one.pdf").read_bytes()
    assert b"/FontFile2" in pdf and b"CreationDate" not in pdf and b"Type3" not in pdf
    width, height = figure.get_size_inches()
    assert imread(tmp_path / "one.png").shape[:2] == (round(height * 200), round(width * 200))


def test_save_knows_two_formats(predictions, tmp_path):
    with pytest.raises(ValueError, match="ending in .pdf or .png, got figure.jpg"):
        plots.save(plots.figure3(predictions, SPEC3, LABELS), tmp_path / "figure.jpg")


def test_long_footers_wrap(predictions):
    assert len(plots.footer_lines("word " * 60, 4.6)) == 3
    assert plots.footer_lines("", 4.6) == []
    assert plots.footer_lines("a word", 4.6) == ["a word"]


# Pictures


def picture(shape, value=0.5):
    return np.full(shape, value, dtype=np.float32)


def panel(value=0.5, prediction="cat", shape=(30, 30, 3), **more):
    return {"image": picture(shape, value), "prediction": prediction, **more}


def shown(axes):
    return np.asarray(axes.images[0].get_array(), dtype=float)


@pytest.mark.parametrize("shape", [(8, 9), (8, 9, 1), (1, 8, 9), (8, 9, 3), (3, 8, 9)])
def test_pixels_takes_the_usual_layouts(shape):
    assert panels.pixels(picture(shape)).shape[:2] == (8, 9)
    assert panels.pixels(np.full(shape, 255, np.uint8)).max() == 1


@pytest.mark.parametrize("image", [np.zeros((4, 8, 9)), np.zeros(5), np.full((8, 9), 200.0)])
def test_pixels_refuses_others(image):
    with pytest.raises(ValueError, match="expected"):
        panels.pixels(image)


def test_figure7(tmp_path):
    row = {"name": "cat", "clean": panel(0.1), "attacked": panel(0.2, "dog")}
    row |= {"dip": panel(0.3, "cat", correct=False), "tdips": panel(0.4, shape=(3, 30, 30))}
    figure = panels.figure7([row, row], NOTE)
    assert len(figure.axes) == 8
    assert [shown(axes).flat[0] for axes in figure.axes[:4]] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    for word in ("✓ cat", "✗ dog", "✗ cat", "original", "attacked", "DIP", "t-DIPs", NOTE):
        assert word in texts(figure)
    marks = {text.get_text()[0]: text.get_color() for text in figure.texts}
    assert marks["✓"] == panels.RIGHT and marks["✗"] == panels.WRONG
    boxes = np.array([axes.get_position().bounds for axes in figure.axes])
    assert np.ptp(boxes[:4, 1]) < 1e-9 and np.ptp(boxes[[0, 4], 0]) < 1e-9  # aligned
    assert boxes.min() > 0 and (boxes[:, 0] + boxes[:, 2]).max() <= 1
    plots.save(figure, tmp_path / "a.png", tmp_path / "a.pdf")
    assert (tmp_path / "a.pdf").stat().st_size > 1000
    assert imread(tmp_path / "a.png").shape[1] == round(200 * panels.WIDTH)


def test_figure8():
    heat = np.zeros((30, 30))
    heat[10:20, 10:20] = 1
    parts = {"original": panel(heat=heat), "attacked": panel(0.5, "dog", heat=heat[::-1])}
    row = {"name": "cat", **parts, "restored": panel(heat=heat * 0.4)}
    figure = panels.figure8([row], NOTE)
    assert len(figure.axes) == 5  # the image, three overlays, a colour bar
    hot, cold = shown(figure.axes[1])[15, 15], shown(figure.axes[1])[0, 0]
    assert hot == pytest.approx(0.45 * 0.5 + 0.55 * np.array([0.988, 1.0, 0.645]), abs=2e-3)
    assert cold == pytest.approx([0.225] * 3, abs=0.01)
    assert [len(axes.collections) for axes in figure.axes[:4]] == [0, 1, 1, 0]  # the line at 0.5
    assert "class activation" in figure.axes[4].get_ylabel()


@pytest.mark.parametrize("heat", [np.zeros((7, 7)), np.full((30, 30), 1.5)])
def test_figure8_refuses_other_heat(heat):
    with pytest.raises(ValueError, match="expected (a heat map|heat)"):
        panels.overlay(picture((30, 30, 3)), heat)


def test_funn_figure2():
    digit = picture((28, 28), 0.0)
    attacked = digit.copy()
    attacked[3, 4] = 0.3
    attacked[5, 6] = 0.4
    row = {"name": "7", "original": {"image": digit, "prediction": "7"}}
    row["classic"] = {"image": attacked, "prediction": "2"}
    row["funn"] = {"image": digit, "prediction": "7"}
    figure = panels.funn_figure2([row], NOTE)
    assert len(figure.axes) == 5
    for words in ("L₂ 0.5", "shown × 2.5", "L₂ 0", "unchanged", "✗ 2", "✓ 7"):
        assert words in texts(figure)
    red, green, blue = shown(figure.axes[2])[5, 6]
    assert red > 2 * max(green, blue) and np.ptp(shown(figure.axes[4])) < 0.01


def test_image_grid_refuses_uneven_rows():
    with pytest.raises(ValueError, match="as many rows"):
        panels.image_grid(["a"], ["x", "y"], [[None]], [[[]]])
    with pytest.raises(ValueError, match="expected 2 images"):
        panels.image_grid(["a", "b"], ["x"], [[picture((3, 3))]], [[[], []]])


def test_tables_start_without_torch_and_matplotlib():
    code = "import sys; from tandem_defense.evaluation import claims, statistics, tables; "
    code += "sys.exit(bool({'torch', 'matplotlib', 'seaborn'} & set(sys.modules)))"
    path = str(Path(__file__).parents[1] / "scripts")
    assert subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": path}).returncode == 0
