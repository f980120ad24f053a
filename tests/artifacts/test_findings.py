"""The table of what reproduces: verdicts, what would decide, claims from several files."""

import pandas as pd
import pytest
import yaml

from tandem_defense.artifacts import findings
from tandem_defense.evaluation.statistics import images_to_decide, wilson

FUNN = findings.MODELS["funn"]


@pytest.mark.parametrize(
    ("published", "low", "high", "expected"),
    [
        (0.5, 0.4, 0.6, "reproduced"),
        (0.4, 0.4, 0.6, "reproduced"),
        (0.38, 0.4, 0.6, "nearly"),  # 380 of 1000 is [35.0, 41.0] %
        (0.2, 0.4, 0.6, "contradicted"),
        (0.0, 0.003, 0.2, "nearly"),  # 0 of 1000 is [0, 0.4] %
        (0.0, 0.005, 0.2, "contradicted"),
        (0.5, 0.3, 0.6, "undecided"),
        (0.0, 0.003, 0.6, "undecided"),
        (0.0, 0.005, 0.6, "contradicted"),
        (float("nan"), 0.4, 0.6, ""),
        (0.5, float("nan"), float("nan"), ""),
    ],
)
def test_verdict(published, low, high, expected):
    assert findings.verdict(published, low, high) == expected


def width(share, n):
    low, high = wilson(round(share * n), n)
    return high - low


@pytest.mark.parametrize("share", [0, 0.034, 0.5, 0.98])
def test_a_cell_is_decided_by_the_first_number_that_narrows_its_interval(share):
    n = findings.images_to_narrow(share)
    assert width(share, n) <= 0.25 and all(width(share, m) > 0.25 for m in range(1, n))


@pytest.fixture
def measured(root, tmp_path):
    """Four photographs, of which t-DIPs has three and ComDefend one; twelve of the tandem."""
    row = {"classifier": "resnet50", "attack": "bim", "n": 4}
    low, high = wilson([3, 1], 4)
    rows = [row | {"defense": name} for name in ("tdips", "comdefend")]
    table = pd.DataFrame(rows).assign(accuracy=[0.75, 0.25], low=low, high=high)
    table.to_csv(tmp_path / "table1.csv", index=False)
    pair = row | {"defense_a": "comdefend", "defense_b": "tdips"}
    pair |= {"only_a": 0, "only_b": 2, "p_value": 0.5}
    pd.DataFrame([pair]).to_csv(tmp_path / "table1_comparisons.csv", index=False)
    runs = {"tandem": {100: 10, 200: 9}, "dip": {100: 1, 200: 2}}
    answers = [
        {"run": run, "image": i, "network": "dip2", "steps": steps, "average": "0.99"}
        | {"correct": float(i < correct)}
        for run, lines in runs.items()
        for steps, correct in lines.items()
        for i in range(12)
    ]
    pd.DataFrame(answers).to_csv(tmp_path / "tandem.csv", index=False)
    return tmp_path


@pytest.fixture
def config(root):
    return yaml.safe_load((root / "reproduction/config.yaml").read_text())


def test_claims_of_tdips_from_table_1_and_the_tandem(measured, config):
    printed, here = findings.tdips_ledger(measured, config)
    assert printed["claim"].tolist() == here["claim"].tolist()
    here = here.set_index(here["claim"].str.split(" beats ").str[-1])
    every = here.loc["ComDefend (released weights) on every attack"]
    assert every["holds"] and not every["decided"]
    assert every["evidence"].startswith("holds in 1 of 1: ResNet50 BIM: 75.0% vs. 25.0%")
    assert "(alone 2 and 0 of 4); undecided" in every["evidence"]
    dip = here.loc["DIP at equal iterations"]  # 9 to 0 and 7 to 0
    assert dip["holds"] and dip["decided"]
    assert dip["evidence"] == "holds in 1 of 1: BIM, λ₁ = 100: behind nowhere (0 of 2)"
    # Two of four discordant: at most 85 % with confidence, which is more than is possible.
    needed = findings.comparisons(measured).set_index(["classifier", "attack", "other"])
    row = needed.loc[("resnet50", "bim", "comdefend")]
    assert not row["measured"] and row["discordance"] == pytest.approx(0.325 + 0.221)
    assert row["images"] == images_to_decide(0.325, 0.221) and len(needed) == 40


def test_what_is_compared_are_the_images_of_both(measured, config):
    """ComDefend has 200 photographs and is behind on them; on t-DIPs' own 24 it is ahead."""
    table = pd.read_csv(measured / "table1.csv")
    table.assign(n=[24, 200], accuracy=[0.5, 0.4]).to_csv(measured / "table1.csv", index=False)
    pair = pd.read_csv(measured / "table1_comparisons.csv")
    pair = pair.assign(n=24, only_a=8, only_b=0, p_value=0.0078)
    pair.to_csv(measured / "table1_comparisons.csv", index=False)
    here = findings.tdips_ledger(measured, config)[1].set_index("claim")
    every = here.loc["t-DIPs beats ComDefend (released weights) on every attack"]
    assert not every["holds"] and every["decided"]
    assert every["evidence"].endswith("BIM: alone 0 and 8 of 24")  # shares are of other images
    rows = {row[0]: row for row in findings.summary(measured, config, {})}
    assert "24 images" in rows["**Table 1**: t-DIPs, 24 cells"][2]


def test_a_run_of_the_configuration_comes_before_the_tandem(measured, config):
    dip = "t-DIPs beats DIP at equal iterations"
    (measured / "claims.csv").write_text(
        f"numbers,claim,holds,decided,evidence\nmeasured,{dip},False,True,BIM: not ahead\n"
    )
    here = findings.tdips_ledger(measured, config)[1].set_index("claim")
    assert not here.loc[dip, "holds"] and here.loc[dip, "evidence"] == "BIM: not ahead"
    assert here.loc["DIP alone defends (some iteration beats no defense)", "holds"]


def test_late_iterations_are_compared_on_the_photographs_of_every_length_of_dip1(measured, config):
    """λ₁ = 200 has six of the twelve: there it has two that λ₁ = 100 has not, and lacks one."""
    correct = {"tandem": [0, 1, 6, 7, 8], "tandem, λ₁ 200": [1, 2, 3]}
    answers = [
        {"run": run, "image": i, "network": "dip2", "steps": 1000, "average": "0.99"}
        | {"correct": float(i in correct[run])}
        for run, count in {"tandem": 12, "tandem, λ₁ 200": 6}.items()
        for i in range(count)
    ]
    pd.DataFrame(answers).to_csv(measured / "tandem.csv", index=False)
    here = findings.tdips_ledger(measured, config)[1].set_index("claim")
    late = here.loc["in late iterations (from 1000) λ₁ hardly matters (≤ 5%)"]
    assert not late["holds"] and not late["decided"]
    expected = "BIM: 16.7% apart at 1000 (λ₁ = 200 and 100, alone 2 and 1 of 6)"
    assert late["evidence"].startswith(f"contradicted by 1 of 1: {expected}; undecided")


def test_lengths_that_do_equally_well_are_compared_with_each_other(measured, config):
    answers = [
        {"run": run, "image": i, "network": "dip2", "steps": 1000, "average": "0.99"}
        | {"correct": float(i in correct)}
        for run, correct in {"tandem": (0, 1), "tandem, λ₁ 200": (1, 2)}.items()
        for i in range(6)
    ]
    pd.DataFrame(answers).to_csv(measured / "tandem.csv", index=False)
    here = findings.tdips_ledger(measured, config)[1].set_index("claim")
    late = here.loc["in late iterations (from 1000) λ₁ hardly matters (≤ 5%)"]
    assert late["holds"] and not late["decided"]
    assert "0.0% apart at 1000 (λ₁ = 200 and 100, alone 1 and 1 of 6)" in late["evidence"]


def test_the_table_says_what_would_decide(measured, config):
    why = {"table1": {"decides": "a larger run"}, "claims": {"decides": "other numbers"}}
    rows = {row[0]: row[1:] for row in findings.summary(measured, config, why)}
    ours = rows["**Table 1**: t-DIPs, 24 cells"]
    narrow = findings.images_to_narrow(0.325)
    assert ours[1:] == (
        "75.0 %, 4 images",
        "1 undecided, 23 not measured",
        f"{narrow} images; a larger run",
    )
    every = rows["t-DIPs beats ComDefend (released weights) on every attack"]
    assert every[2:] == ("undecided", "31,381 images (densenet161, bim)")
    assert rows["t-DIPs beats DIP at equal iterations"][2:] == ("reproduced", "–")
    late = rows["in late iterations (from 1000) λ₁ hardly matters (≤ 5%)"]
    assert late[1:] == ("–", "not measured", "other numbers")
    assert rows["**Table 2**: FUNN, 9 cells"][1:] == ("–", "9 not measured", "–")


def test_claims_of_funn_are_judged_on_table_2_unless_more_is_there(tmp_path):
    head = "model,attack,success_rate,low,high,noise_level\n"
    (tmp_path / "table2.csv").write_text(f"{head}funn,deepfool_l2_50,0.9,0.8,1,0.2\n")
    robust = "FUNN is robust against DeepFool L2 with 50 steps (success ≤ 5%)"
    here = findings.funn_ledger(tmp_path)[1].set_index("claim")
    assert here.loc[robust, "evidence"] == "deepfool_l2_50 90.00% [80.00%, 100.00%]"
    assert not here.loc[robust, "holds"] and here["holds"].isna().sum() == 8
    (tmp_path / "funn.csv").write_text(
        "setting,measure,value,noise\n"
        f'"{FUNN}",deepfool_l2_50,0.01,0.2\n"{FUNN}",deepfool_l2_50,0.03,0.2\n'
    )
    here = findings.funn_ledger(tmp_path)[1].set_index("claim")
    assert here.loc[robust, "evidence"] == "deepfool_l2_50 2.00% [1.00%, 3.00%]"
    assert here.loc[robust, "holds"]


def test_dip_alone_is_compared_with_no_defense_on_its_own_photographs(measured, config):
    """BIM fools all twelve; two of them correct after 200 steps is within chance."""
    pd.concat(
        [
            pd.read_csv(measured / "table1.csv"),
            pd.DataFrame(
                [{"classifier": "resnet50", "attack": "bim", "n": 94, "defense": "none"}]
            ).assign(accuracy=0.0, low=0.0, high=0.04),
        ]
    ).to_csv(measured / "table1.csv", index=False)
    here = findings.tdips_ledger(measured, config)[1].set_index("claim")
    row = here.loc["DIP alone defends (some iteration beats no defense)"]
    assert row["holds"] and not row["decided"]
    assert "BIM, iteration 200: 16.7% vs. 0.0% (alone 2 and 0 of 12)" in row["evidence"]


def test_growth_is_judged_where_all_steps_have_the_same_images(tmp_path):
    """Of other images 50 steps fool 98 %; of those that 200 have too, all."""
    cells = [(1000, "deepfool_linf_50", 0.98), (200, "deepfool_linf_200", 1.0)]
    rows = [
        {"setting": FUNN, "seed": 0, "measure": name, "n": n, "value": share, "noise": 1.0}
        for n, name, share in cells
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "funn.csv", index=False)
    claim = "the success of DeepFool L∞ on FUNN grows with its steps"
    here = findings.funn_ledger(tmp_path)[1].set_index("claim")
    assert here.loc[claim, "holds"]
    walk = {"setting": FUNN, "seed": 0, "distance": 1.0, "margin": 0.0}
    walks = [
        walk | {"attack": f"DeepFool {norm}, Foolbox 1", "image": i, "step": steps}
        for norm, every in (("L∞", (10, 40)), ("L2", (10, 90)))
        for i, steps in enumerate(every)
    ]
    pd.DataFrame(walks).to_csv(tmp_path / "funn_rates.csv", index=False)
    here = findings.funn_ledger(tmp_path)[1].set_index("claim")
    assert pd.isna(here.loc[claim, "holds"])
    assert (
        "50 100.00%" in here.loc[claim, "evidence"]
        and "nothing is left" in here.loc[claim, "evidence"]
    )
    assert here.loc[claim.replace("L∞", "L2"), "holds"]  # 50, 100 and, with nothing left, 100 %
