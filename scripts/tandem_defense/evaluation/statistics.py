"""How sure a measured rate is: intervals for one run, ranges for several, paired tests."""

from typing import NamedTuple

import numpy as np

from tandem_defense.extras import extra

with extra("pipeline"):
    from scipy.stats import binomtest


class McNemar(NamedTuple):
    """A paired comparison: how often only a, and only b, is correct; exact two-sided p-value."""

    p_value: float
    only_a: int
    only_b: int


class Rate(NamedTuple):
    """A share in [0, 1] with its interval; `n` images per seed, `seeds` seeds."""

    n: int
    rate: float
    low: float
    high: float
    seeds: int


def wilson(successes, n, confidence: float = 0.95):
    """Wilson's score interval of a binomial share, as fractions (low, high).

    `successes` and `n` are numbers or arrays of one shape; where n = 0 both ends are nan.
    Raises ValueError unless 0 ≤ successes ≤ n. Wilson, JASA 22 (1927).

    >>> low, high = wilson(672, 1000)
    >>> round(float(low), 3), round(float(high), 3)
    (0.642, 0.7)
    """
    low, high = np.vectorize(_wilson, otypes=[float, float])(successes, n, confidence)
    return low[()], high[()]


def _wilson(successes, n, confidence):
    if not 0 <= successes <= n:
        raise ValueError(f"expected 0 <= successes <= n, got {successes} of {n}")
    if n == 0:
        return np.nan, np.nan
    interval = binomtest(int(successes), int(n)).proportion_ci(confidence, method="wilson")
    return interval.low, interval.high


def mcnemar(a_correct, b_correct) -> McNemar:
    """McNemar's exact test: does one of a and b err more often, or is it chance?

    Both arguments are boolean, one entry per image, in the same order. Without any discordant
    image the p-value is 1. Raises ValueError where the shapes differ.

    >>> mcnemar([True] * 6 + [False], [False] * 6 + [False])
    McNemar(p_value=0.03125, only_a=6, only_b=0)
    """
    a, b = np.asarray(a_correct, dtype=bool), np.asarray(b_correct, dtype=bool)
    if a.shape != b.shape:
        raise ValueError(f"expected paired answers of one shape, got {a.shape} and {b.shape}")
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    discordant = only_a + only_b
    p_value = float(binomtest(only_a, discordant).pvalue) if discordant else 1.0
    return McNemar(p_value, only_a, only_b)


def summarize(successes, n) -> Rate:
    """One share from the counts of every seed (sequences, one entry per seed).

    One seed: its share with Wilson's 95 % interval. Several: the median share with the smallest
    and the largest, and the lower median of n; a seed with n = 0 has no share and is left out.
    Raises ValueError where there is no seed at all.
    """
    successes, n = np.atleast_1d(successes), np.atleast_1d(n)
    if n.size == 0:
        raise ValueError("expected the counts of at least one seed, got none")
    if n.size == 1:
        low, high = wilson(successes[0], n[0])
        return Rate(int(n[0]), _share(successes, n)[0], float(low), float(high), 1)
    shares = _share(successes, n)
    known = shares[np.isfinite(shares)] if np.isfinite(shares).any() else np.array([np.nan])
    middle = int(np.sort(n)[(n.size - 1) // 2])
    return Rate(middle, float(np.median(known)), float(known.min()), float(known.max()), n.size)


def _share(successes, n):
    """successes / n, nan where n = 0."""
    return np.divide(successes, n, out=np.full(n.shape, np.nan), where=n > 0)
