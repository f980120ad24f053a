"""Which rows a cell has, whether they are complete, and rates over one seed and several."""

import re

import frames
import pandas as pd
import pytest

from tandem_defense.evaluation import rates
from tandem_defense.files import judgments, predictions

CELLS = pd.DataFrame(
    [("nips2017", "resnet50", defense, "fgsm") for defense in ("none", "hgd")], columns=rates.CELL
)


@pytest.mark.parametrize("name", ["predictions", "threats"])
def test_the_documented_columns_are_those_of_the_files(root, name):
    files = {"predictions": predictions, "threats": judgments}
    page = (root / "docs/results.md").read_text().split(f"## `{name}/")[1].split("## `")[0]
    words = {"str": "text", "int64": "integer", "bool": "boolean"}
    documented = {}
    for names, kind, _ in re.findall(r"^\| ([\w, ]+) \| (\w+) \| (.*) \|$", page, re.MULTILINE):
        documented |= dict.fromkeys(names.split(", "), kind)
    del documented["column"]
    expected = {column: words.get(kind, kind) for column, kind in files[name].TYPES.items()}
    assert documented == expected


def test_a_refused_input_is_neither_correct_nor_fooled():
    rows = frames.answers("cwxX")
    assert rates.correct(rows).tolist() == [True, False, False, False]
    assert rates.fooled(rows).tolist() == [False, True, False, False]


def test_select_takes_the_rows_of_the_cells_alone():
    rows = rates.select(frames.photos(), CELLS)
    assert len(rows) == 8 and set(rows["defense"]) == {"none", "hgd"}
    assert set(rows["attack"]) == {"fgsm"} and set(rows["classifier"]) == {"resnet50"}


def test_select_wants_the_same_images_in_every_cell_and_seed():
    rows = frames.photos((0, 1))
    gone = (rows["seed"] == 1) & (rows["defense"] == "hgd") & (rows["image"] == "i2")
    with pytest.raises(ValueError, match="hgd.*seed 1: found 3 rows.*4 images; missing: i2"):
        rates.select(rows[~gone], CELLS)


def test_select_names_no_more_than_five_images():
    whole = frames.answers("c" * 9, classifier="resnet50")
    few = frames.answers("c", classifier="resnet50", defense="hgd")
    with pytest.raises(ValueError, match="missing: i1, i2, i3, i4, i5, …$"):
        rates.select(pd.concat([whole, few]), CELLS)


def test_select_without_any_row():
    with pytest.raises(ValueError, match="defense none, attack fgsm: found 0 rows"):
        rates.select(frames.photos().query("classifier != 'resnet50'"), CELLS)


def test_computed_keeps_the_order_and_leaves_out_what_is_not_there():
    wanted = pd.concat([CELLS[::-1], CELLS.assign(attack="cw")], ignore_index=True)
    assert rates.computed(frames.photos(), wanted)["defense"].tolist() == ["hgd", "none"]
    with pytest.raises(ValueError, match="expected.*attack cw; there are only.*attack clean, fgsm"):
        rates.computed(frames.photos(), CELLS.assign(attack="cw"))
    with pytest.raises(ValueError, match=r"lacking \['l2'\]"):
        rates.computed(frames.photos().drop(columns="l2"), CELLS)


def test_rates_of_one_seed_and_of_several():
    rows = pd.concat([frames.answers("ccww"), frames.answers("cwww", attack="cw")])
    table = rates.rates(rows, ["attack"], rates.correct(rows)).set_index("attack")
    assert table["rate"].to_dict() == {"fgsm": 0.5, "cw": 0.25} and set(table["n"]) == {4}
    assert table.loc["fgsm", "low"] == pytest.approx(0.15, abs=1e-3)  # Wilson of 2 of 4
    seeds = [frames.answers(t, seed=s) for s, t in enumerate(("cccc", "cwww", "ccww"))]
    rows = pd.concat(seeds)
    (row,) = rates.rates(rows, ["attack"], rates.correct(rows)).itertuples(index=False)
    assert tuple(row) == ("fgsm", 4, 0.5, 0.25, 1.0, 3)


def test_noise_levels_are_means_of_the_hits_and_medians_over_seeds():
    seeds = [frames.answers(t, seed=s) for s, t in enumerate(("wccc", "wwcc", "cccw"))]
    rows = pd.concat([*seeds, frames.answers("cc", attack="cw")])
    table = rates.noise_levels(rows, ["attack"], rates.fooled(rows))
    assert table.to_dict("records") == [{"attack": "fgsm", "noise_level": 1.5}]  # of 1, 1.5, 4
