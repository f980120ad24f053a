"""Intervals and paired tests against closed forms and answers by hand."""

from math import comb, inf, isnan, lgamma, sqrt
from statistics import NormalDist

import numpy as np
import pytest
from scipy.stats import binom

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
    assert counts == [only_a, only_b, n + 3]
    assert p_value == pytest.approx(min(1.0, 2 * tail))


def test_mcnemar_needs_pairs():
    with pytest.raises(ValueError, match=r"\(2,\) and \(3,\)"):
        statistics.mcnemar([True, False], [True, False, True])


# Printed examples: Fagerland, Lydersen and Laake 2014, Table II; Agresti and Min 2005.
@pytest.mark.parametrize(
    "only_a, only_b, n, printed", [(1, 7, 21, (-0.517, -0.026)), (16, 8, 86, (-0.020, 0.207))]
)
def test_tango_as_printed(only_a, only_b, n, printed):
    result = statistics.paired_interval(only_a, only_b, n, correction=0)
    assert np.round(result, 3) == pytest.approx(printed)


def tables(n):
    """All (only_a, only_b) of n images, and the logarithms of how many ways each has."""
    counts = np.array([(a, b) for a in range(n + 1) for b in range(n + 1 - a)])
    ways = [lgamma(n + 1) - sum(lgamma(k + 1) for k in (a, b, n - a - b)) for a, b in counts]
    return counts, np.array(ways)


def chances(ways, counts, n, only_a, only_b):
    """The probability of every table, if the shares are these."""
    rest = max(1 - only_a - only_b, 1e-300)
    logs = counts @ np.log([only_a, only_b]) + (n - counts.sum(1)) * np.log(rest)
    return np.exp(ways + logs)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 8, 12, 20, 30])
def test_paired_intervals_cover_whatever_the_shares_are(n):
    """The exact probability that they do, on a grid of shares: never below 95 %."""
    counts, ways = tables(n)
    low, high = np.transpose([statistics.paired_interval(a, b, n) for a, b in counts])
    for only_a in np.linspace(0.002, 0.998, 32):
        for only_b in np.linspace(0.002, 0.998, 32):
            if only_a + only_b <= 1:
                inside = (low - 1e-9 <= only_a - only_b) & (only_a - only_b <= high + 1e-9)
                covered = chances(ways, counts, n, only_a, only_b)[inside].sum()
                assert covered >= 0.95, (only_a, only_b, covered)


def test_paired_intervals_without_correction_do_not_cover():
    counts, ways = tables(4)
    sure = [statistics.paired_interval(a, b, 4, correction=0) for a, b in counts]
    inside = np.array([low <= 0 <= high for low, high in sure])
    assert chances(ways, counts, 4, 0.499, 0.499)[inside].sum() < 0.9


@pytest.mark.parametrize("n", [4, 30])
def test_paired_intervals_agree_with_the_exact_test(n):
    """0 is outside where p is below 5 %; of up to 30 images one pair of counts is on the line."""
    other = []
    for a, b in tables(n)[0]:
        low, high = statistics.paired_interval(a, b, n)
        p_value = statistics.mcnemar([True] * a + [False] * b, [False] * a + [True] * b).p_value
        if (low > 0 or high < 0) != (p_value < 0.05):
            other.append((a, b))
    assert other == ([] if n == 4 else [(4, 13), (13, 4)])


def test_paired_intervals_turn_with_the_pair_and_reach_the_ends():
    low, high = statistics.paired_interval(3, 10, 40)
    assert statistics.paired_interval(10, 3, 40) == pytest.approx((-high, -low))
    assert low < (3 - 10) / 40 < high
    for correction in (0, 1):
        low, high = statistics.paired_interval(0, 9, 9, correction=correction)
        assert low == -1 and -1 < high < 0
    # Without discordant images: from the closed form z² / (n + z²).
    z = NormalDist().inv_cdf(0.975)
    low, high = statistics.paired_interval(0, 0, 20, correction=0)
    assert high == -low == pytest.approx(z * z / (20 + z * z))


@pytest.mark.parametrize("counts", [(-1, 0, 3), (2, 2, 3), (0, 0, 0)])
def test_paired_intervals_refuse_impossible_counts(counts):
    with pytest.raises(ValueError, match=f"only_a {counts[0]}, only_b {counts[1]}, n {counts[2]}"):
        statistics.paired_interval(*counts)


# Shares, discordance, and the most that the power may come to: the fewer images are discordant on
# both sides, the coarser are binomials, and the formula on the safe side.
@pytest.mark.parametrize(
    "a, b, discordance, most",
    [
        (0.472, 0.34, None, 0.81),
        (0.472, 0.34, 0.3, 0.82),
        (0.672, 0.633, 0.25, 0.81),
        (0.9, 0.3, None, 0.86),
        (0.56, 0.46, 0.1, 0.94),
        (0.77, 0, None, 0.95),
    ],
)
def test_so_many_images_decide_in_four_of_five_simulated_experiments(a, b, discordance, most):
    n = statistics.images_to_decide(a, b, discordance)
    psi = min(a + b, 2 - a - b) if discordance is None else discordance
    only_a, only_b = (psi + a - b) / 2, max(psi - a + b, 0) / 2
    drawn = np.random.default_rng(0).multinomial(n, [only_a, only_b, 1 - psi], 20_000)
    fewer, discordant = drawn[:, :2].min(1), drawn[:, :2].sum(1)
    decided = 2 * binom.cdf(fewer, discordant, 0.5) < 0.05
    assert 0.79 <= decided.mean() <= most


def test_images_to_decide_by_hand():
    """Connor's S² / δ² = 22.0 with shares 0.05 and 0.45; the exact test needs some more."""
    assert statistics.images_to_decide(0.45, 0.05, 0.5) == 27
    assert statistics.images_to_decide(1, 0) == 6  # of five, p is 0.0625 at best
    assert statistics.images_to_decide(0.5, 0.5) == inf


def test_less_discordance_needs_fewer_images_and_stays_possible():
    worst = statistics.images_to_decide(0.7, 0.6)
    assert worst == statistics.images_to_decide(0.7, 0.6, 0.7)
    assert worst == statistics.images_to_decide(0.7, 0.6, 1)
    assert worst > statistics.images_to_decide(0.7, 0.6, 0.2)
    assert statistics.images_to_decide(0.7, 0.6, 0) == statistics.images_to_decide(0.7, 0.6, 0.1)
    with pytest.raises(ValueError, match=r"shares in \[0, 1\], got 67"):
        statistics.images_to_decide(67, 0.5)


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
