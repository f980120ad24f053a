"""Table 2 on small prediction frames with answers computed by hand."""

import frames
import pandas as pd
import pytest
from frames import DIGITS

from tandem_defense.artifacts.printing import LATEX, MARKDOWN, latex, markdown
from tandem_defense.artifacts.success import COLUMNS, Success

MODELS = {
    "classic": {"classifier": "classic"},
    "magnet": {"classifier": "classic", "defense": "magnet"},
    "funn": {"classifier": "funn", "defense": "none"},
}


@pytest.fixture
def frame(root):
    """The table of prediction rows."""

    def frame(predictions, models=MODELS, **settings):
        given = frames.inputs(predictions, published=root / "resources/published/table2.csv")
        return Success(experiment="funn", models=models, **settings).frame(given, DIGITS)

    return frame


def test_by_hand(frame):
    result = frame(frames.digits())
    assert list(result) == COLUMNS
    result = result.set_index(["model", "attack"])
    assert list(result.index)[:3] == [
        ("classic", "fgsm"),
        ("classic", "deepfool_linf_50"),
        ("magnet", "fgsm"),
    ]
    classic, magnet, funn = (result.loc[m, "fgsm"] for m in ("classic", "magnet", "funn"))
    assert (classic["n"], classic["success_rate"], classic["noise_level"]) == (4, 0.5, 1.5)
    assert (magnet["n"], magnet["success_rate"], magnet["noise_level"]) == (4, 0.25, 1.0)
    assert (funn["n"], funn["success_rate"]) == (3, 0.0) and pd.isna(funn["noise_level"])
    assert classic["low"] == pytest.approx(0.15, abs=1e-3)  # Wilson of 2 of 4
    assert magnet["published_success_rate"] == 0.032 and pd.isna(magnet["published_noise_level"])
    assert classic["published_noise_level"] == 0.07
    assert set(result["seeds"]) == {1}


def test_without_published_numbers():
    kind = Success(experiment="funn", models=MODELS, attacks=["fgsm"])
    result = kind.frame(frames.inputs(frames.digits()), DIGITS)
    assert list(result) == COLUMNS and result["success_rate"].tolist() == [0.5, 0.25, 0.0]
    assert result.filter(like="published").isna().all(axis=None)
    assert "published" not in markdown(kind.grid(result, DIGITS, MARKDOWN))


def test_over_seeds(frame):
    predictions = frames.digits((0, 1, 2))
    funn = predictions["classifier"] == "funn"
    first = funn & (predictions["seed"] == 1) & (predictions["image"] == "i0")
    predictions.loc[first, "clean_prediction"] = 3
    second = funn & (predictions["seed"] == 2) & (predictions["image"] == "i1")
    predictions.loc[second, "prediction"] = 3
    row = frame(predictions).set_index(["model", "attack"]).loc["funn", "fgsm"]
    assert row[["n", "success_rate", "low"]].tolist() == [3, 0, 0] and row["seeds"] == 3
    assert row["high"] == pytest.approx(1 / 3) and row["noise_level"] == 2.0


def test_without_a_single_image_that_is_classified_correctly(frame):
    result = frame(frames.digits().assign(clean_prediction=3))
    assert set(result["n"]) == {0} and result["success_rate"].isna().all()
    kind = Success(experiment="funn", models=MODELS)
    assert "–" in markdown(kind.grid(result, DIGITS, MARKDOWN))


def test_cells_that_are_not_computed_print_as_a_dash(frame):
    predictions = frames.digits()
    gone = (predictions["defense"] == "magnet") & (predictions["attack"] == "fgsm")
    result = frame(predictions[~gone])
    assert result["n"].tolist() == [4, 4, 0, 4, 3, 3]
    lines = markdown(Success(experiment="funn", models=MODELS).grid(result, DIGITS, MARKDOWN))
    cells = [cell.strip() for cell in lines.splitlines()[4].strip("|").split("|")]
    assert cells[0] == "FGSM" and cells[3:5] == ["– (3.20)", "–"]


def test_missing_rows_are_named(frame):
    predictions = frames.digits()
    gone = (predictions["defense"] == "magnet") & (predictions["image"] == "i3")
    with pytest.raises(ValueError, match="magnet.*found 4 rows.*5 images; missing: i3"):
        frame(predictions[~gone])


def test_in_print(frame):
    result = frame(frames.digits())
    text = latex(Success(experiment="funn", models=MODELS).grid(result, DIGITS, LATEX))
    assert frames.check_latex(text) == 7
    assert r"\cmidrule(lr){2-3}\cmidrule(lr){4-5}\cmidrule(lr){6-7}" in text
    assert r"FGSM & 50.00 (0.41) & 1.50 (0.07) & 25.00 (3.20) & 1.00 & 0.00 (1.61)" in text
    assert r"DeepFool (L$\infty$) & 50.00 (100.00)" in text
    kind = Success(experiment="funn", models=MODELS, intervals=True)
    text = markdown(kind.grid(result, DIGITS, MARKDOWN))
    assert "| 25.00 [4.56, 69.94] (3.20) |" in text and "Classic: success" in text
    assert "mnist, n = 3–4" in text and "oblivious attacker" in text and "Wilson" in text


def test_models_with_the_same_defense_are_told_apart():
    predictions = pd.concat(
        [frames.digits(), frames.digits().query("classifier == 'funn'").assign(defense="magnet")]
    )
    models = MODELS | {"both": {"classifier": "funn", "defense": "magnet"}}
    kind = Success(experiment="funn", models=models)
    grid = kind.grid(kind.frame(frames.inputs(predictions), DIGITS), DIGITS, MARKDOWN)
    names = [name for name, _ in grid.groups]
    assert names == ["Classic", "Classic, MagNet", "FUNN", "FUNN, MagNet"]
