"""Table 1 on small prediction frames with answers computed by hand."""

import subprocess
import sys

import frames
import pandas as pd
import pytest
from frames import PHOTOS

from tandem_defense.artifacts.accuracy import COLUMNS, Accuracy, best
from tandem_defense.artifacts.base import Sheet
from tandem_defense.artifacts.printing import LATEX, MARKDOWN, latex, markdown
from tandem_defense.evaluation.rates import CELL

WANTED = dict(
    experiment="tdips", attacks=["clean", "fgsm"], omit=["noise"], first_iterations=100
) | {"iterations": 1000}


@pytest.fixture
def published(root):
    return root / "resources/published/table1.csv"


def table(predictions, sheet=PHOTOS, published=None, **settings):
    files = {"published": published} if published else {}
    return Accuracy(**(WANTED | settings)).frame(frames.inputs(predictions, **files), sheet)


def test_by_hand(published):
    result = table(frames.photos(), published=published)
    assert list(result) == COLUMNS
    assert result["classifier"].tolist() == ["resnet50"] * 6 + ["inception_v3"] * 6
    assert result["defense"].tolist()[:6] == ["none", "none", "hgd", "hgd", "tdips", "tdips"]
    assert result["accuracy"].tolist() == [0.75, 0.0, 0.5, 0.5, 0.5, 0.75] * 2
    assert set(result["n"]) == {4} and set(result["seeds"]) == {1}
    assert result["first_iterations"].tolist() == [0, 0, 0, 0, 100, 100] * 2
    assert result["iteration"].tolist() == [0, 0, 0, 0, 1000, 1000] * 2
    assert result["published"].tolist()[6:] == [0.864, 0.109, 0.817, 0.612, 0.672, 0.673]
    assert result["low"][0] == pytest.approx(0.3006, abs=1e-4)  # Wilson of 3 of 4
    assert result["high"][0] == pytest.approx(0.9544, abs=1e-4)


def test_without_published_numbers():
    assert table(frames.photos())["published"].isna().all()


def test_unpublished_cells_are_empty(published):
    predictions = frames.photos().replace({"defense": {"hgd": "noise"}})
    result = table(predictions, published=published, omit=["hgd"])
    assert result["published"].isna().tolist() == [False, False, True, True, False, False] * 2


def test_settings_choose_and_order_the_cells():
    result = table(
        frames.photos(), classifiers=["inception_v3"], attacks=["fgsm", "clean"], omit=["tdips"]
    )
    assert result["classifier"].tolist() == ["inception_v3"] * 4
    assert result["attack"].tolist() == ["fgsm", "clean"] * 2
    assert result["defense"].tolist() == ["none", "none", "hgd", "hgd"]


def test_over_seeds_median_and_range():
    predictions = frames.photos((0, 1, 2))
    better = (predictions["seed"] == 2) & (predictions["defense"] == "tdips")
    predictions.loc[better & (predictions["attack"] == "clean"), "prediction"] = 7
    result = table(predictions).set_index(CELL)
    row = result.loc[("nips2017", "inception_v3", "tdips", "clean")]
    assert row[["n", "accuracy", "low", "high", "seeds"]].tolist() == [4, 0.5, 0.5, 1.0, 3]


def test_categorical_columns_and_any_order_of_rows():
    names = ["dataset", "classifier", "attack", "defense", "image"]
    shuffled = frames.photos().sample(frac=1, random_state=0)
    shuffled = shuffled.astype(dict.fromkeys(names, "category"))
    pd.testing.assert_frame_equal(table(shuffled), table(frames.photos()), check_dtype=False)


# Read-outs


def readouts(iterations, first=(100,), **columns):
    """t-DIPs' rows: at iteration k, the share of correct answers is k / 1000."""
    parts = [
        frames.some_correct(step // 100, "fgsm", "tdips", one, step)
        for one in first
        for step in iterations
    ]
    return pd.concat(parts).assign(**columns)


def last(predictions, **settings):
    wanted = {"iterations": None, "first_iterations": None, "attacks": None}
    return table(predictions, **wanted, **settings).set_index(CELL)


def test_default_is_the_last_common_readout_and_the_smallest_common_first():
    predictions = pd.concat(
        [
            readouts([500, 900, 1000], (200, 100)),
            readouts([500, 900], (100, 300), classifier="resnet50"),
        ]
    )
    result = last(predictions)
    assert set(result["iteration"]) == {900} and set(result["first_iterations"]) == {100}
    assert result["accuracy"].tolist() == [0.9, 0.9]


def test_a_setting_wins_over_the_default_and_leaves_other_defenses_alone():
    predictions = pd.concat([readouts([500, 1000], (100, 200)), frames.some_correct(3, "fgsm")])
    result = table(
        predictions, iterations=500, first_iterations=200, classifiers=["inception_v3"]
    ).set_index("defense")
    assert result.loc["none", ["first_iterations", "iteration", "accuracy"]].tolist() == [0, 0, 0.3]
    assert result.loc["tdips", ["first_iterations", "iteration"]].tolist() == [200, 500]


def test_dip_has_no_first_network():
    dip = readouts([500, 1000], (0,), defense="hgd")
    result = table(pd.concat([dip, readouts([1000])])).set_index("defense")
    assert result["first_iterations"].to_dict() == {"hgd": 0, "tdips": 100}
    assert set(result["iteration"]) == {1000}


def test_no_common_readout_is_an_error():
    predictions = pd.concat([readouts([1000]), readouts([500], classifier="resnet50")])
    with pytest.raises(ValueError, match=r"resnet50.*iteration 0,.*there are \[\(100, 500\)\]"):
        last(predictions)


def test_an_absent_readout_names_those_that_exist():
    with pytest.raises(ValueError, match=r"iteration 900.*\(100, 500\), \(100, 1000\)"):
        table(frames.photos(), iterations=900)


# Rows that are missing


def without(**columns):
    predictions = frames.photos()
    gone = pd.Series(True, predictions.index)
    for column, value in columns.items():
        gone &= predictions[column] == value
    return predictions[~gone]


def test_missing_rows_are_named():
    predictions = without(defense="hgd", classifier="resnet50", attack="fgsm", image="i0")
    with pytest.raises(ValueError, match="found 3 rows, .* each of 4 images") as error:
        table(predictions)
    for word in ("resnet50", "hgd", "fgsm", "seed 0", "missing: i0"):
        assert word in str(error.value)


def test_duplicated_rows_are_named():
    predictions = frames.photos()
    again = pd.concat([predictions, predictions.iloc[[2]]])
    with pytest.raises(ValueError, match=r"none.*clean.*found 5 rows.*4 images; duplicated: i2"):
        table(again)


def test_a_seed_missing_from_a_cell_is_an_error():
    predictions = frames.photos((0, 1))
    gone = (predictions["seed"] == 1) & (predictions["defense"] == "hgd")
    with pytest.raises(ValueError, match="hgd.*seed 1: found 0 rows"):
        table(predictions[~gone])


def test_cells_that_are_not_computed_print_as_a_dash():
    """An entry's ``only`` may leave out attacks and classifiers."""
    predictions = without(defense="none", classifier="resnet50", attack="clean")
    result = table(predictions)
    assert len(result) == 11 and result["accuracy"].notna().all()
    lines = markdown(Accuracy(**WANTED).grid(result, PHOTOS, MARKDOWN)).splitlines()
    assert [c.strip() for c in lines[2].strip("|").split("|")][2:] == ["Clean", "FGSM"]
    assert [c.strip() for c in lines[4].strip("|").split("|")][1:] == ["No defense", "–", "0.0"]


def test_nothing_at_all_and_absent_columns_are_errors():
    with pytest.raises(ValueError, match="expected predictions of dataset mnist;.*nips2017"):
        table(frames.photos(), frames.DIGITS)
    with pytest.raises(ValueError, match=r"lacking \['l2'\]"):
        table(frames.photos().drop(columns="l2"))


# In print


def table_for_print():
    """One block: noise (a control) is best under C&W, none on clean images."""
    parts = [
        ("none", "clean", 0.9, None),
        ("none", "cw", 0.0, 0.0),
        ("hgd", "clean", 0.7, 0.817),
        ("hgd", "cw", 0.2, 0.153),
        ("noise", "clean", 0.8, None),
        ("noise", "cw", 0.9, None),
        ("tdips", "clean", 0.6, 0.672),
        ("tdips", "cw", 0.523, 0.652),
    ]
    result = pd.DataFrame(parts, columns=["defense", "attack", "accuracy", "published"])
    steps = (result["defense"] == "tdips").astype(int)
    return result.assign(
        dataset="nips2017", classifier="inception_v3", n=1000, low=0.1, high=result["accuracy"]
    ).assign(seeds=1, first_iterations=100 * steps, iteration=1000 * steps)[COLUMNS]


def test_bold_is_the_best_defense_only():
    bare = Sheet("nips2017", {}, {}, {})
    assert best(table_for_print(), PHOTOS).tolist() == [0, 0, 1, 0, 0, 0, 0, 1]
    assert best(table_for_print(), bare).tolist() == [0, 0, 0, 0, 1, 1, 0, 0]
    tie = table_for_print().assign(accuracy=0.5)
    assert best(tie, PHOTOS).tolist() == [0, 0, 1, 1, 0, 0, 1, 1]


def test_markdown():
    text = markdown(Accuracy(experiment="tdips").grid(table_for_print(), PHOTOS, MARKDOWN))
    caption, _, *body = text.strip().split("\n")
    assert caption.startswith("nips2017, n = 1000: accuracy in % over all images; 95 % Wilson")
    assert caption.endswith(
        "Bold: best defense. Restorations: λ₁ = 100; λ₂ = 1000. † control, not a contender."
        " In parentheses: published."
    )
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in body]
    assert cells[0] == ["Classifier", "Defense", "Clean", "C&W"]
    assert cells[2:] == [
        ["Inception-v3", "No defense", "90.0", "0.0 (0.0)"],
        ["", "HGD (ours, 5_000 images)", "**70.0** (81.7)", "20.0 (15.3)"],
        ["", "*Noise* †", "80.0", "90.0"],
        ["", "t-DIPs", "60.0 (67.2)", "**52.3** (65.2)"],
    ]
    wide = Accuracy(experiment="tdips", intervals=True).grid(table_for_print(), PHOTOS, MARKDOWN)
    assert "**52.3** [10.0, 52.3] (65.2)" in markdown(wide)


def test_latex():
    text = latex(Accuracy(experiment="tdips").grid(table_for_print(), PHOTOS, LATEX))
    assert frames.check_latex(text) == 3
    assert r"\multicolumn{3}{c}{Inception-v3} \\" in text
    assert r"t-DIPs & 60.0 (67.2) & \textbf{52.3} (65.2) \\" in text
    assert r"\textit{Noise}$^\dagger$ & 80.0 & 90.0 \\" in text
    assert r"HGD (ours, 5\_000 images) & \textbf{70.0} (81.7) & 20.0 (15.3) \\" in text
    assert r"$\lambda$$_1$ = 100" in text
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == 1
    wide = Accuracy(experiment="tdips", intervals=True).grid(table_for_print(), PHOTOS, LATEX)
    assert frames.check_latex(latex(wide)) == 3


def test_the_caption_names_seeds_and_leaves_out_what_is_not_there():
    plain = table_for_print().query("defense == 'none'").assign(seeds=5, published=float("nan"))
    text = Accuracy(experiment="tdips").caption(plain, PHOTOS)
    assert "range over 5 seeds" in text
    for word in ("λ", "†", "published"):
        assert word not in text


def test_tables_start_without_torch_and_matplotlib(root):
    modules = "accuracy, comparisons, overview, success"  # claims reads curves, which are drawn
    code = f"import sys; from tandem_defense.artifacts import {modules}; "
    code += "print({'torch', 'matplotlib', 'seaborn'} & set(sys.modules)); "
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(root / "scripts")},
        capture_output=True,
        text=True,
    )
    assert run.stdout.strip() == "set()", run.stderr
