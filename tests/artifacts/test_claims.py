"""The paper's claims, judged on its printed numbers and on curves made by hand."""

import frames
import pandas as pd
import pytest

from tandem_defense.artifacts import claims
from tandem_defense.artifacts.base import Sheet
from tandem_defense.artifacts.claims import Claims
from tandem_defense.artifacts.printing import LATEX, MARKDOWN, latex, markdown
from tandem_defense.evaluation.statistics import images_to_decide, wilson

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


def judged(table, *curves, printed=False, **settings):
    lines = pd.concat([curve(*line) for line in curves]) if curves else None
    result = Claims(**(PARTS | settings)).judge(table, SHEET, lines, printed=printed)
    assert list(result) == ["claim", "holds", "decided", "evidence", "images"]
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
    assert wrong["evidence"].item() == "contradicted by 1 of 4: densenet161 clean: 60.8% vs. 61.0%"
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


def test_a_claim_needs_the_images_of_its_closest_comparison(published):
    needed = judged(published, printed=True)["images"]
    assert needed.iloc[0] == images_to_decide(0.673, 0.612)  # Inception, FGSM
    assert needed.iloc[1] == images_to_decide(0.246, 0.235)  # DenseNet, BIM
    assert needed.iloc[2] == images_to_decide(0.608, 0.61)
    assert needed.iloc[3] == images_to_decide(0.042, 0.725 / 4)  # ResNet-50, MI-FGSM
    assert needed.iloc[4:].isna().all()
    assert judged(published)["images"].isna().all()


def rows(count, attack, defense="none", first=0, step=0):
    return frames.some_correct(count, attack, defense, first, step, n=20)


def test_undecided_is_what_paired_tests_leave_open(tmp_path):
    """Twenty images, the same ones correct: 12 against 6 is decided (p = 0.03), against 7 not."""
    parts = [rows(15, "clean"), rows(1, "fgsm"), rows(12, "fgsm", "tdips", 100, 1000)]
    parts += [rows(6, "fgsm", "hgd"), rows(7, "fgsm", "comdefend"), rows(14, "clean", "comdefend")]
    parts += [rows(13, "clean", "tdips", 100, 1000), rows(14, "clean", "hgd")]
    (tmp_path / "table.csv").write_text(
        "dataset,classifier,defense,attack,accuracy\n"
        "nips2017,inception_v3,tdips,fgsm,0.673\nnips2017,inception_v3,hgd,fgsm,0.612\n"
        "nips2017,inception_v3,tdips,clean,0.672\nnips2017,inception_v3,comdefend,clean,0.633\n"
    )
    kind = Claims(**(PARTS | {"dip": None}), published="table1")
    given = frames.inputs(pd.concat(parts), published=tmp_path / "table.csv")
    result = kind.frame(given, SHEET)
    measured = result[result["numbers"] == "measured"].set_index("claim")
    assert measured["holds"].iloc[:3].tolist() == [True, True, False]
    assert measured["decided"].iloc[:3].tolist() == [True, False, False]
    assert measured["evidence"].iloc[1] == (
        "holds in 1 of 1: inception_v3 fgsm: 60.0% vs. 35.0% (alone 5 and 0 of 20);"
        " undecided in 1 of 1"
    )
    assert measured["decided"].iloc[3:].isna().all() and measured["images"].isna().all()
    # Six and one of twenty images are discordant, with confidence at most 51.9 and 23.6 %.
    needed = result[result["numbers"] == "published"]["images"]
    assert needed.iloc[0] == images_to_decide(0.673, 0.612, wilson(6, 20)[1])
    assert needed.iloc[2] == images_to_decide(0.672, 0.633, wilson(1, 20)[1])
    lines = markdown(kind.grid(result, SHEET, MARKDOWN)).splitlines()[4:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [row[1:3] for row in cells[:3]] == [
        ["yes", "yes"],
        ["–", "undecided"],
        ["yes", "undecided"],
    ]
    assert cells[0][4] == f"{needed.iloc[0]:,.0f}" and cells[1][4] == "–"


def test_without_pairs_intervals_have_to_lie_apart(published):
    result = judged(published.assign(low=published["accuracy"] - 0.03))
    assert result["evidence"].iloc[2].endswith("; undecided in 2 of 4")
    assert result["evidence"].iloc[0] == "holds in 16 of 16" and result["decided"].iloc[0]


def test_one_clear_contradiction_decides(published):
    """Of three comparisons that fail, one is beyond chance; a claim that holds needs all."""
    check = claims.Check(False, "")
    assert claims._decided([check._replace(clear=c) for c in (True, False, None)])
    assert not claims._decided([check._replace(clear=c) for c in (False, None)])
    holds = claims.Check(True, "", True)
    assert claims._decided([holds, holds]) and not claims._decided(
        [holds, holds._replace(clear=False)]
    )
    assert claims._decided([holds._replace(clear=None)]) is None
    assert not claims._decided([holds, check._replace(clear=False)])


def test_on_curves_that_agree(published):
    result = judged(published, *GOOD)
    assert result["holds"].iloc[4:].tolist() == [True] * 5
    assert result["evidence"].iloc[5] == "holds in 3 of 3"
    assert result["evidence"].iloc[8] == "holds in 1 of 1: bim: 1.0% apart at 1200"


def test_on_curves_that_disagree(published):
    result = judged(published, *BAD)
    assert result["holds"].iloc[4:].tolist() == [False] * 5
    evidence = result["evidence"].iloc[4:].tolist()
    assert "bim, iteration 400: 0.0% vs. 0.0%" in evidence[0]
    assert "bim, λ₁ = 100: not ahead at 800 (1 of 3)" in evidence[1]
    assert "reached at 100 + 400" in evidence[2]
    assert "λ₁ = 200: 10.0%, best 30.0% at 1200, 30.0% at 1200" in evidence[3]
    assert "bim: 10.0% apart at 1200" in evidence[4]


def test_without_an_undefended_accuracy_nothing_says_that_dip_defends(published):
    result = judged(published[published["defense"] != "none"], *GOOD)
    assert pd.isna(result["holds"].iloc[4]) and result["holds"].iloc[5]


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
    assert measured["evidence"].iloc[5] == "holds in 6 of 6; undecided in 6 of 6"
    assert measured["decided"].iloc[4:7].tolist() == [False, False, False]
    lines = markdown(kind.grid(result, frames.CURVES, MARKDOWN)).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    assert cells[0] == ["Claim", "in print", "measured", "evidence here", "images"]
    assert len(cells) == 2 + 9
    assert cells[7][:3] == ["t-DIPs beats DIP at equal iterations", "–", "undecided"]
    assert cells[8][:3] == [
        "t-DIPs needs fewer iterations (λ₁ + λ₂ to DIP's best)",
        "–",
        "undecided",
    ]
    assert frames.check_latex(latex(kind.grid(result, frames.CURVES, LATEX))) == 5


def test_ranges_join_neighbors():
    assert claims._ranges([100, 200, 500], [100, 200, 300, 500]) == "100–200, 500"
    assert claims._ranges([], [100]) == ""
