"""Intervals, paired tests and the paper's claims against closed forms and answers by hand."""

from math import comb, isnan, sqrt
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pandas as pd
import pytest

from tandem_defense.evaluation import claims, statistics


def wilson_by_hand(k, n, confidence):
    """Wilson's closed form, with the standard library alone."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    middle, root = k / n + z * z / (2 * n), z * sqrt(k * (n - k) / n**3 + z * z / (4 * n * n))
    return (middle - root) / (1 + z * z / n), (middle + root) / (1 + z * z / n)


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("k, n", [(0, 1), (1, 1), (0, 20), (3, 20), (20, 20), (672, 1000)])
def test_wilson_is_the_closed_form(k, n, confidence):
    found = statistics.wilson(k, n, confidence)
    assert found == pytest.approx(wilson_by_hand(k, n, confidence), abs=1e-9)


def test_wilson_of_the_papers_672_of_1000():
    low, high = statistics.wilson(672, 1000)
    assert (round(100 * low, 1), round(100 * high, 1)) == (64.2, 70.0)


def test_wilson_is_vectorised_and_nan_without_images():
    low, high = statistics.wilson([0, 5, 0], [10, 10, 0])
    assert low.shape == high.shape == (3,)
    assert low[0] == 0 and low[1] == pytest.approx(1 - high[1])
    assert isnan(low[2]) and isnan(high[2])
    assert np.shape(statistics.wilson(np.ones((2, 3)), np.full((2, 3), 4))) == (2, 2, 3)


@pytest.mark.parametrize("k, n", [(-1, 3), (4, 3)])
def test_wilson_refuses_impossible_counts(k, n):
    with pytest.raises(ValueError, match=f"got {k} of {n}"):
        statistics.wilson(k, n)


@pytest.mark.parametrize("only_a, only_b", [(0, 0), (1, 0), (0, 6), (3, 3), (2, 9), (30, 10)])
def test_mcnemar_is_the_exact_sign_test(only_a, only_b):
    a = [True] * only_a + [False] * only_b + [True, False, False]
    b = [False] * only_a + [True] * only_b + [True, False, False]
    n, k = only_a + only_b, min(only_a, only_b)
    tail = sum(comb(n, i) for i in range(k + 1)) / 2**n
    p_value, *counts = statistics.mcnemar(a, b)
    assert counts == [only_a, only_b]
    assert p_value == pytest.approx(min(1.0, 2 * tail))


def test_mcnemar_needs_pairs():
    with pytest.raises(ValueError, match=r"\(2,\) and \(3,\)"):
        statistics.mcnemar([True, False], [True, False, True])


def test_one_seed_has_wilson():
    found = statistics.summarise([3], [20])
    assert found[:2] == (20, 0.15) and found.seeds == 1
    assert found[2:4] == pytest.approx(wilson_by_hand(3, 20, 0.95))


def test_several_seeds_have_median_and_range():
    assert statistics.summarise([1, 9, 4], [10, 10, 10]) == (10, 0.4, 0.1, 0.9, 3)
    even = statistics.summarise([1, 9, 4, 6], [10, 20, 10, 10])
    assert even == (10, pytest.approx(0.425), 0.1, 0.6, 4)


def test_seeds_without_images_have_no_share():
    assert statistics.summarise([0, 2], [0, 4])[1:4] == (0.5, 0.5, 0.5)
    assert all(isnan(x) for x in statistics.summarise([0, 0], [0, 0])[1:4])
    assert isnan(statistics.summarise([0], [0]).rate)
    with pytest.raises(ValueError, match="at least one seed"):
        statistics.summarise([], [])


# The papers' claims

LABELS = {"tdips": "t-DIPs", "hgd": "HGD", "comdefend": "ComDefend"}


def published():
    root = Path(__file__).parents[1]
    return pd.read_csv(root / "resources" / "published" / "table1.csv")


def judged(table=None, curves=None, **settings):
    table = published().rename(columns={"accuracy": "published"}) if table is None else table
    settings = {"column": "published"} | settings
    found = claims.check_claims(table, curves, LABELS, **settings)
    assert list(found) == ["claim", "holds", "evidence"]
    return found.set_index("claim")


def test_published_numbers_contradict_one_claim():
    found = judged()
    assert found["holds"].value_counts(dropna=False).to_dict() == {True: 3, False: 1, pd.NA: 5}
    wrong = found[found["holds"].eq(False).fillna(False)]
    assert wrong.index.tolist() == ["t-DIPs beats ComDefend on clean images"]
    assert wrong["evidence"].item() == (
        "contradicted by 1 of 4: densenet161 clean: 60.8% against 61.0%"
    )
    assert found["evidence"].iloc[0] == "holds in 16 of 16"


def test_a_higher_bar_for_collapse():
    assert judged(collapse=0.05)["holds"].iloc[3] == False  # noqa: E712
    with pytest.raises(ValueError, match="'accuracy' or 'published', got 'n'"):
        judged(column="n")


def test_measured_claims_count_overlapping_intervals():
    table = published().assign(low=lambda t: t["accuracy"] - 0.03, high=lambda t: t["accuracy"])
    found = judged(table, column="accuracy")
    assert found["evidence"].iloc[2].endswith("intervals overlap in 2 of 4")
    assert found["evidence"].iloc[0] == "holds in 16 of 16"


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


def test_claims_on_curves_that_agree():
    found = judged(curves=pd.concat([curve(*line) for line in GOOD]))
    assert found["holds"].iloc[4:].tolist() == [True] * 5
    assert found["evidence"].iloc[5] == "holds in 3 of 3"
    assert found["evidence"].iloc[8] == "holds in 1 of 1"


def test_claims_on_curves_that_disagree():
    found = judged(curves=pd.concat([curve(*line) for line in BAD]))
    assert found["holds"].iloc[4:].tolist() == [False] * 5
    evidence = found["evidence"].iloc[4:].tolist()
    assert "bim, iteration 400: 0.0% against 0.0%" in evidence[0]
    assert "bim, λ₁ = 100: not ahead at 800 (1 of 3)" in evidence[1]
    assert "reached at 100 + 400" in evidence[2]
    assert "λ₁ = 200: 10.0%, best 30.0% at 1200, 30.0% at 1200" in evidence[3]
    assert "bim: 10.0% apart at 1200" in evidence[4]


def test_ranges_join_neighbours():
    assert claims._ranges([100, 200, 500], [100, 200, 300, 500]) == "100–200, 500"
    assert claims._ranges([], [100]) == ""
