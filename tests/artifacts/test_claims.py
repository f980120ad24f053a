"""The paper's claims, judged on its printed numbers and on curves made by hand."""

import frames
import pandas as pd
import pytest

from tandem_defense.artifacts import claims
from tandem_defense.artifacts.base import Sheet
from tandem_defense.artifacts.claims import Claims
from tandem_defense.artifacts.printing import LATEX, MARKDOWN, latex, markdown

SHEET = Sheet(
    dataset="nips2017",
    classifiers={"inception_v3": "inception_v3"},
    attacks={"clean": "clean"} | {name: name for name in ("fgsm", "bim", "mifgsm", "cw")},
    defenses={"none": "No defense", "dip": "DIP", "tdips": "t-DIPs"}
    | {"hgd": "HGD", "comdefend": "ComDefend"},
)
PARTS = dict(experiment="tdips", tdips="tdips", dip="dip", hgd="hgd", comdefend="comdefend")


@pytest.fixture
def published(root):
    table = pd.read_csv(root / "resources/published/table1.csv")
    return table.assign(low=table["accuracy"], high=table["accuracy"])


def judged(table, *curves, **settings):
    lines = pd.concat([curve(*line) for line in curves]) if curves else None
    result = Claims(**(PARTS | settings)).judge(table, SHEET, lines)
    assert list(result) == ["claim", "holds", "evidence"]
    return result.set_index("claim")


def curve(attack, defense, first, accuracies):
    return pd.DataFrame(
        {
            "attack": attack,
            "defense": defense,
            "first_iterations": first,
            "iteration": range(400, 400 * len(accuracies) + 1, 400),
            "accuracy": accuracies,
            "low": [a - 0.02 for a in accuracies],
            "high": [a + 0.02 for a in accuracies],
        }
    )


GOOD = [
    ("bim", "dip", 0, [0.1, 0.3, 0.2]),
    ("bim", "tdips", 100, [0.3, 0.5, 0.4]),
    ("bim", "tdips", 200, [0.4, 0.52, 0.41]),
    ("cw", "dip", 0, [0.1, 0.3, 0.5]),
    ("cw", "tdips", 100, [0.3, 0.55, 0.6]),
]
BAD = [
    ("bim", "dip", 0, [0.0, 0.0, 0.0]),
    ("bim", "tdips", 100, [0.1, 0.0, 0.2]),
    ("bim", "tdips", 200, [0.1, 0.1, 0.3]),
]


def test_published_numbers_contradict_one_claim(published):
    result = judged(published)
    assert result["holds"].value_counts(dropna=False).to_dict() == {True: 3, False: 1, pd.NA: 5}
    wrong = result[result["holds"].eq(False).fillna(False)]
    assert wrong.index.tolist() == ["t-DIPs beats ComDefend on clean images"]
    assert wrong["evidence"].item() == (
        "contradicted by 1 of 4: densenet161 clean: 60.8% against 61.0%"
    )
    assert result["evidence"].iloc[0] == "holds in 16 of 16"


def test_a_higher_bar_for_collapse(published, monkeypatch):
    monkeypatch.setattr(claims, "COLLAPSE", 0.05)
    result = judged(published)
    assert not result["holds"].iloc[3] and "below 5% of clean" in result.index[3]


def test_the_experiment_says_which_attacks_are_strong(published):
    bim = published.replace({"attack": {"bim": "bim_20"}})
    usual, other = judged(bim), judged(bim, strong=["bim_20", "mifgsm"])
    assert usual["evidence"].iloc[3] == "holds in 4 of 4"
    assert other["evidence"].iloc[3] == "holds in 8 of 8"


def test_measured_claims_count_overlapping_intervals(published):
    result = judged(published.assign(low=published["accuracy"] - 0.03))
    assert result["evidence"].iloc[2].endswith("intervals overlap in 2 of 4")
    assert result["evidence"].iloc[0] == "holds in 16 of 16"


def test_on_curves_that_agree(published):
    result = judged(published, *GOOD)
    assert result["holds"].iloc[4:].tolist() == [True] * 5
    assert result["evidence"].iloc[5] == "holds in 3 of 3"
    assert result["evidence"].iloc[8] == "holds in 1 of 1"


def test_on_curves_that_disagree(published):
    result = judged(published, *BAD)
    assert result["holds"].iloc[4:].tolist() == [False] * 5
    evidence = result["evidence"].iloc[4:].tolist()
    assert "bim, iteration 400: 0.0% against 0.0%" in evidence[0]
    assert "bim, λ₁ = 100: not ahead at 800 (1 of 3)" in evidence[1]
    assert "reached at 100 + 400" in evidence[2]
    assert "λ₁ = 200: 10.0%, best 30.0% at 1200, 30.0% at 1200" in evidence[3]
    assert "bim: 10.0% apart at 1200" in evidence[4]


def test_late_iterations_begin_at_the_tables(published):
    result = judged(published, *BAD, iterations=400)
    assert result.index[8].startswith("in late iterations (from 400)")


def test_without_parts_there_is_nothing_to_judge_by(published):
    result = judged(published, hgd=None, comdefend=None, dip=None)
    assert result["holds"].isna().all() and set(result["evidence"]) == {"nothing to judge by"}
    assert result.index[0] == "t-DIPs beats HGD on FGSM, BIM, MI-FGSM and C&W"


def test_from_rows_to_a_printed_table(root):
    """t-DIPs is above DIP everywhere; DIP's best, 60 % at 400, λ₁ = 100 reaches at 100 + 300."""
    rows = frames.curves()
    kind = Claims(
        **(PARTS | {"hgd": None, "comdefend": None}),
        published="table1",
        curve_classifier="inception_v3",
        curve_attacks=["bim", "cw"],
        last=400,
        every=100,
    )
    given = frames.inputs(rows, published=root / "resources/published/table1.csv")
    result = kind.frame(given, frames.CURVES)
    assert result["numbers"].tolist() == ["published"] * 9 + ["measured"] * 9
    measured = result[result["numbers"] == "measured"].set_index("claim")
    assert measured["holds"].iloc[:4].isna().all()
    assert measured["holds"].iloc[4:7].tolist() == [True, True, False]
    assert measured["evidence"].iloc[6].startswith("contradicted by 4 of 6: BIM, λ₁ = 100: DIP's")
    assert "60.0% at 400, reached at 100 + 300" in measured["evidence"].iloc[6]
    assert measured["evidence"].iloc[5].startswith("holds in 6 of 6; intervals overlap")
    lines = markdown(kind.grid(result, frames.CURVES, MARKDOWN)).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    assert cells[0] == ["Claim", "in print", "measured", "evidence here"] and len(cells) == 2 + 9
    assert cells[7][:3] == ["t-DIPs beats DIP at equal iterations", "–", "yes"]
    assert frames.check_latex(latex(kind.grid(result, frames.CURVES, LATEX))) == 4


def test_ranges_join_neighbors():
    assert claims._ranges([100, 200, 500], [100, 200, 300, 500]) == "100–200, 500"
    assert claims._ranges([], [100]) == ""
