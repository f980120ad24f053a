"""Table 3 and Figure 9 from judgments known by hand."""

from dataclasses import replace

import pandas as pd
import pytest
from frames import PHOTOS, check_latex
from judged import rows

from tandem_defense.artifacts import printing
from tandem_defense.artifacts.base import Inputs
from tandem_defense.artifacts.robustness import Robustness
from tandem_defense.artifacts.security import Security
from tandem_defense.evaluation.threats import COLUMNS, robustness
from tandem_defense.files.base import FileError
from tandem_defense.files.judgments import TYPES, gather, read, write

SHEET = replace(
    PHOTOS, threats={"oblivious": "Oblivious", "bpda": "BPDA", "query": "Square", "noise": "Noise"}
)


def judgments() -> pd.DataFrame:
    parts = [
        rows(["cccc"], "clean", 0.0),
        rows(["ccww"], "oblivious"),
        rows(["cwcw"], "bpda"),
        rows(["wwww"], "oblivious", 0.5),
        rows(["cccx"], "noise"),
        rows(["cccc"] * 3, "clean", 0.0, "tdips"),
        rows(["cccc", "cccc", "cccw"], "oblivious", defense="tdips", deceived=True, dynamic=True),
        rows(["ccww", "cwww", "cccc"], "bpda", defense="tdips", dynamic=True),
        rows(["cccc"] * 3, "noise", defense="tdips"),
    ]
    return pd.concat(parts, ignore_index=True)


def cells(table, defense):
    table = table[(table["defense"] == defense)]
    return {(r.threat, r.epsilon): r for r in table.itertuples()}


def test_accuracy_worst_case_and_signs():
    table = robustness(judgments())
    assert list(table) == COLUMNS
    none, tdips = cells(table, "none"), cells(table, "tdips")
    assert none["oblivious", 0.1].accuracy == 0.5 and none["noise", 0.1].accuracy == 0.75
    assert none["worst", 0.1].accuracy == 0.25 and none["worst", 0.5].accuracy == 0
    assert (none["clean", 0].n, none["clean", 0].seeds) == (4, 1)
    # i0 3/3, i1 2/3, i2 and i3 1/3 of the draws
    assert tdips["bpda", 0.1].accuracy == pytest.approx((1 + 2 / 3 + 2 / 3 * 1) / 4)
    assert tdips["worst", 0.1].accuracy == tdips["bpda", 0.1].accuracy
    assert tdips["worst", 0.1].seeds == 3
    assert tdips["oblivious", 0.1].signs.split() == [
        "randomized",
        "dynamic",
        "unstable_predictions",
        "transfer_failure",
    ]
    assert (
        tdips["worst", 0.1].signs
        == tdips["bpda", 0.1].signs
        == ("randomized dynamic unstable_predictions")
    )
    assert tdips["clean", 0].signs == tdips["noise", 0.1].signs == ""
    for row in table.itertuples():
        assert row.low <= row.accuracy <= row.high


def test_a_majority_of_draws():
    mean, majority = (cells(robustness(judgments(), v), "tdips") for v in ("mean", "majority"))
    assert majority["bpda", 0.1].accuracy == 0.5  # i0 and i1
    assert majority["oblivious", 0.1].accuracy == 1 > mean["oblivious", 0.1].accuracy


@pytest.mark.parametrize(
    ("flags", "sign"),
    [
        ({"zero_gradient": True}, "zero_gradients"),
        ({"no_gradient": True}, "unavailable_gradients"),
        ({"silent": True}, "silent_success"),
        ({"incomplete": True}, "incomplete_optimization"),
        ({"deceived": True}, "transfer_failure"),
    ],
)
def test_what_was_seen_of_an_attack_becomes_a_sign(flags, sign):
    clean = rows(["cccc"], "clean", 0.0)
    for marked, expected in ((flags, sign), ({}, "")):
        table = robustness(pd.concat([clean, rows(["ccww"], "bpda", **marked)]))
        assert cells(table, "none")["bpda", 0.1].signs == expected


def test_signs_that_compare_cells():
    clean = rows(["cccc"], "clean", 0.0)
    table = robustness(pd.concat([clean, rows(["cccw"], "bpda"), rows(["ccww"], "query")]))
    found = cells(table, "none")
    assert found["bpda", 0.1].signs == "query_better" and found["query", 0.1].signs == ""
    table = robustness(pd.concat([clean, rows(["ccww"], "bpda"), rows(["cwww"], "bpda", 0.5)]))
    found = cells(table, "none")
    assert found["bpda", 0.1].signs == found["bpda", 0.5].signs == "unconstrained_failure"


def test_the_worst_case_has_the_signs_of_a_search_at_its_epsilon():
    """Neither noise, nor an attack that had less room, nor one that went too far, stands for it."""
    flags = {"zero_gradient": True}
    parts = [rows(["cccc"], "clean", 0.0), rows(["cccc"], "oblivious", 0.05)]
    parts += [rows(["cccc"], "oblivious", 0.1, **flags), rows(["ccww"], "noise", 0.1)]
    parts += [rows(["wwww"], "query", 0.0, linf=0.4)]
    found = cells(robustness(pd.concat(parts)), "none")
    assert found["worst", 0.1].accuracy == 0.5
    assert found["worst", 0.1].signs == "zero_gradients query_better"  # noise is better
    assert found["worst", 0.05].signs == ""
    table = Robustness(experiment="tdips", epsilon=0.1)
    shown = table.grid(table.frame(inputs(pd.concat(parts)), SHEET), SHEET, printing.MARKDOWN)
    assert "| 100.0 " in printing.markdown(shown).split("No defense")[1].split("\n")[0]


def test_several_run_seeds_have_median_and_range():
    parts = [rows(["cccc"], "clean", 0.0, seed=s) for s in range(3)]
    parts += [rows([t], "bpda", seed=s) for s, t in enumerate(("cccw", "ccww", "wwww"))]
    found = cells(robustness(pd.concat(parts)), "none")["bpda", 0.1]
    assert (found.accuracy, found.low, found.high, found.seeds) == (0.5, 0, 0.75, 3)


def inputs(table) -> Inputs:
    given = Inputs({})
    given.__dict__["threats"] = table
    return given


def test_the_table_prints_signs_beside_numbers():
    kind = Robustness(experiment="tdips", epsilon=0.1)
    table = kind.frame(inputs(judgments()), SHEET)
    assert list(table) == COLUMNS
    assert list(table["defense"].unique()) == ["none", "tdips"]
    text = printing.markdown(kind.grid(table, SHEET, printing.MARKDOWN))
    line = next(line for line in text.split("\n") if "t-DIPs" in line)
    assert "100.0 " in line and "(1,2,5,8)" in line and "**58.3** (1,2,5)" in line
    assert "8 transfer failure" in text and "25.5/255" in text and "no claim" in text
    assert "| – " not in line or "Square" in text
    check_latex(printing.latex(kind.grid(table, SHEET, printing.LATEX)))


def test_the_figure_shows_the_worst_case_down_to_its_end():
    kind = Security(experiment="tdips", classifier="resnet50", control="noise")
    drawing, points = kind.draw(inputs(judgments()), SHEET)
    worst = points[(points["threat"] == "worst") & (points["defense"] == "none")]
    assert list(worst["epsilon"]) == [0, 0.1, 0.5] and list(worst["accuracy"]) == [1, 0.25, 0]
    assert [axes.get_title() for axes in drawing.axes] == ["Worst case per image", "Noise"]
    named = {line.get_label() for line in drawing.axes[0].lines}
    assert {label for label in named if label[0] != "_"} == {"No defense", "t-DIPs"}
    # What is left to those alone who do not know of the defense is hollow, in the first panel.
    blind = points[(points["threat"] == "worst") & ~points["aware"] & (points["epsilon"] > 0)]
    blind = blind[blind["accuracy"] > 0]
    hollow = [line for line in drawing.axes[0].lines if line.get_markerfacecolor() == "white"]
    assert sorted(y for line in hollow for y in line.get_ydata()) == sorted(blind["accuracy"])
    assert len(blind) and any("hollow" in text.get_text() for text in drawing.texts)
    alone, _ = Security(experiment="tdips", classifier="resnet50").draw(inputs(judgments()), SHEET)
    assert len(alone.axes) == 1


def test_judgments_are_checked_when_they_are_read(tmp_path):
    file, all_ = tmp_path / "a.parquet", tmp_path / "b.parquet"
    write(judgments(), file)
    gather([file, file], all_)
    assert len(read(all_, "gather_threats")) == 2 * len(judgments())
    with pytest.raises(FileError, match="cannot be read as Parquet .*gather_threats makes it"):
        read(tmp_path / "no.parquet", "gather_threats")
    judgments()[list(TYPES)].assign(draw="x").to_parquet(file)
    with pytest.raises(FileError, match="has the columns"):
        read(file, "evaluate_threats")
