"""Paired tests between defenses, counted by hand."""

import frames
import pandas as pd
from frames import PHOTOS

from tandem_defense.artifacts.comparisons import COLUMNS, Comparisons
from tandem_defense.artifacts.printing import LATEX, MARKDOWN, latex, markdown, points
from tandem_defense.evaluation.statistics import paired_interval

WANTED = dict(experiment="tdips", first_iterations=100, iterations=1000, omit=["noise"])


def table(predictions):
    return Comparisons(**WANTED).frame(frames.inputs(predictions), PHOTOS)


def test_by_hand():
    result = table(frames.photos())
    assert list(result) == COLUMNS and len(result) == 2 * 2 * 3
    row = result[(result["defense_a"] == "hgd") & (result["attack"] == "fgsm")].iloc[0]
    assert row["classifier"] == "resnet50" and row["defense_b"] == "tdips"
    assert (row["n"], row["only_a"], row["only_b"]) == (4, 1, 2)  # cc-- against c-cc
    assert row["p_value"] == 1.0
    assert row["difference"] == -0.25 and row["low"] < -0.25 < row["high"]
    none = result[(result["defense_b"] == "tdips") & (result["defense_a"] == "none")].iloc[1]
    assert (none["only_a"], none["only_b"], none["p_value"]) == (0, 3, 0.25)
    assert none["difference"] == -0.75 and none["low"] == -1 and 0 < none["high"] < 0.5


def test_over_seeds_images_count_once():
    predictions = frames.photos((0, 1, 2))
    once = (predictions["seed"] == 0) & (predictions["defense"] == "tdips")
    predictions.loc[once, "prediction"] = 3
    pd.testing.assert_frame_equal(table(predictions), table(frames.photos()))


def test_pairs_that_are_not_computed_are_left_out():
    predictions = frames.photos()
    gone = (predictions["defense"] == "hgd") & (predictions["attack"] == "clean")
    result = table(predictions[~gone])
    assert len(result) == 2 * (1 + 3)
    clean = result[result["attack"] == "clean"]
    assert set(zip(clean["defense_a"], clean["defense_b"])) == {("none", "tdips")}


def test_in_print():
    result = table(frames.photos())
    lines = markdown(Comparisons(**WANTED).grid(result, PHOTOS, MARKDOWN)).splitlines()
    assert lines[0].startswith(
        "nips2017: on how many of 4 images only the first, and only the second"
    )
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    heads = ["only first", "only second", "difference", "p"]
    assert cells[0] == ["Classifier, attack", "Defenses", *heads]
    assert cells[2][:2] == ["ResNet-50, Clean", "No defense – HGD (ours, 5_000 images)"]
    hgd = ["ResNet-50, FGSM", "No defense – HGD (ours, 5_000 images)"]
    low, high = (points(end) for end in paired_interval(0, 2, 4))
    assert cells[5] == [*hgd, "0", "2", f"−50.0 [{low}, {high}]", "0.5"]
    low, high = (points(end) for end in paired_interval(0, 3, 4))
    assert cells[6] == ["", "No defense – t-DIPs", "0", "3", f"−75.0 [{low}, {high}]", "0.25"]
    text = latex(Comparisons(**WANTED).grid(result, PHOTOS, LATEX))
    assert frames.check_latex(text) == 5
    assert r"No defense -- t-DIPs & 0 & 3 & $-$75.0 [$-$100.0, " in text
