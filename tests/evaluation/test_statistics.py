"""Intervals and paired tests against closed forms and answers by hand."""

from math import comb, isnan, sqrt
from statistics import NormalDist

import numpy as np
import pytest

from tandem_defense.evaluation import statistics


def wilson_by_hand(k, n, confidence):
    """Wilson's closed form, with the standard library alone."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    middle, root = k / n + z * z / (2 * n), z * sqrt(k * (n - k) / n**3 + z * z / (4 * n * n))
    return (middle - root) / (1 + z * z / n), (middle + root) / (1 + z * z / n)


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("k, n", [(0, 1), (1, 1), (0, 20), (3, 20), (20, 20), (672, 1000)])
def test_wilson_is_the_closed_form(k, n, confidence):
    result = statistics.wilson(k, n, confidence)
    assert result == pytest.approx(wilson_by_hand(k, n, confidence), abs=1e-9)


def test_wilson_of_the_papers_672_of_1000():
    low, high = statistics.wilson(672, 1000)
    assert (round(100 * low, 1), round(100 * high, 1)) == (64.2, 70.0)


def test_wilson_is_vectorized_and_nan_without_images():
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
    result = statistics.summarize([3], [20])
    assert result[:2] == (20, 0.15) and result.seeds == 1
    assert result[2:4] == pytest.approx(wilson_by_hand(3, 20, 0.95))


def test_several_seeds_have_median_and_range():
    assert statistics.summarize([1, 9, 4], [10, 10, 10]) == (10, 0.4, 0.1, 0.9, 3)
    even = statistics.summarize([1, 9, 4, 6], [10, 20, 10, 10])
    assert even == (10, pytest.approx(0.425), 0.1, 0.6, 4)


def test_seeds_without_images_have_no_share():
    assert statistics.summarize([0, 2], [0, 4])[1:4] == (0.5, 0.5, 0.5)
    assert all(isnan(x) for x in statistics.summarize([0, 0], [0, 0])[1:4])
    assert isnan(statistics.summarize([0], [0]).rate)
    with pytest.raises(ValueError, match="at least one seed"):
        statistics.summarize([], [])
