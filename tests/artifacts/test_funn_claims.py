"""The FUNN paper's claims, judged on its printed numbers and on cells made by hand."""

import frames
import pandas as pd
import pytest
from frames import DIGITS

from tandem_defense.artifacts.funn_claims import FUNNClaims, Rate, Training, judge, printed
from tandem_defense.artifacts.printing import LATEX, MARKDOWN, latex, markdown

# What decides each claim, in the order of the ledger: words of it, and what is in print.
LEDGER = {
    "robust against DeepFool L2": True,
    "robust against DeepFool L∞": True,
    "DeepFool L2 on FUNN grows": True,
    "DeepFool L∞ on FUNN grows": True,
    "SinglePixel": True,
    "without a bound": None,
    "similarly": True,
    "as L2 norm": True,
    "squared and per pixel": False,
    "larger β": None,
    "learning rates": None,
}


def verdicts(cells, **others):
    frame = judge(cells, **others)
    assert list(frame) == ["claim", "holds", "evidence"] and len(frame) == len(LEDGER)
    judged = {}
    for words, (_, row) in zip(LEDGER, frame.iterrows(), strict=True):
        assert words in row["claim"]
        judged[words] = None if pd.isna(row["holds"]) else bool(row["holds"])
    return judged


@pytest.fixture
def published(root):
    return printed(pd.read_csv(root / "resources/published/table2.csv"))


def test_in_print(published):
    assert verdicts(published) == LEDGER
    evidence = judge(published)["evidence"]
    assert evidence[0] == "deepfool_l2_50 0.54%" and evidence[5] == "nothing to judge by"
    assert evidence[7] == "0.0075, β = 0.01"


def cell(rate, noise=1.0):
    return Rate(rate, rate - 0.01, rate + 0.01, noise)


def test_what_a_weak_network_leaves_of_them():
    cells = {("funn", f"deepfool_l2_{n}"): cell(rate, 0.3) for n, rate in ((50, 0.8), (200, 0.98))}
    cells |= {("funn", "deepfool_l2_1000"): cell(0.98), ("funn", "deepfool_linf_50"): cell(0.051)}
    cells |= {("funn", "single_pixel"): cell(0.1), ("funn", "fgsm_unbounded"): cell(0.99)}
    cells |= {("funn", "gradient_unbounded"): cell(0.94), ("magnet", "deepfool_linf_50"): cell(0.2)}
    assert verdicts(cells) == dict.fromkeys(LEDGER, False) | {
        "DeepFool L∞ on FUNN grows": None,  # 200 steps are missing
        "larger β": None,
        "learning rates": None,
    }
    assert judge(cells)["evidence"][0] == "deepfool_l2_50 80.00% [79.00%, 81.00%]"


@pytest.mark.parametrize(
    ("noise", "l2", "per_pixel"), [(0.02, True, False), (0.021, False, False), (3.2, False, True)]
)
def test_a_noise_level_is_close_to_beta_in_one_unit(noise, l2, per_pixel):
    """3.2² / 1024 is 0.01."""
    judged = verdicts({("funn", "deepfool_l2_50"): cell(0.01, noise)})
    assert (judged["as L2 norm"], judged["squared and per pixel"]) == (l2, per_pixel)


def test_other_trainings(published):
    black = Training(attacker=0.05, defender=0.05, black=0.08, rate=0.9)
    gray = Training(attacker=0.03, defender=0.02, black=0.08, rate=0.04)
    for networks, holds in (({0.02: black, 0.05: black}, True), ({0.02: black, 0.05: gray}, False)):
        assert verdicts(published, larger=networks)["larger β"] is holds
    for paper, others, holds in (
        (gray, {"× 3": black, "÷ 3": gray}, True),
        (gray, {"÷ 3": gray}, False),
        (black, {"× 3": black}, False),  # the paper's own rates are no better
        (gray, {}, None),
    ):
        networks = {"× 1": paper} | others
        assert verdicts(published, rates=networks)["learning rates"] is holds
    assert verdicts(published, rates={"× 3": black})["learning rates"] is None


def test_the_kind_judges_both_tables(root):
    models = {
        "classic": {"classifier": "classic"},
        "magnet": {"classifier": "classic", "defense": "magnet"},
        "funn": {"classifier": "funn"},
    }
    kind = FUNNClaims(experiment="funn", models=models, published="table2")
    file = root / "resources/published/table2.csv"
    frame = kind.frame(frames.inputs(frames.digits(), published=file), DIGITS)
    assert list(frame) == ["numbers", "claim", "holds", "evidence"]
    here = frame[frame["numbers"] == "measured"].set_index("claim")
    row = here.loc["MagNet and FUNN perform similarly (≤ 5 points apart)"]
    assert not row["holds"]
    assert row["evidence"].startswith("deepfool_linf_50 25.00% [4.56%, 69.94%] and 0.00% [")
    assert here["holds"].isna().sum() == 9  # two attacks do not decide the others
    text = markdown(kind.grid(frame, DIGITS, MARKDOWN))
    assert latex(kind.grid(frame, DIGITS, LATEX)).isascii()
    assert "deepfool_linf_50 0.60% and 4.13%, fgsm 3.20% and 1.61%" in text
