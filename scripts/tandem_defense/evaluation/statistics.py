"""How sure a measured rate is: intervals for one run, ranges for several, paired tests.

Two defenses are compared on the same images. Images on which both are correct, or neither, tell
nothing of which is better; the test, the interval of the difference and the number of images that
would decide all rest on the *discordant* ones, on which exactly one is correct.
"""

from math import ceil, inf, sqrt
from typing import NamedTuple

import numpy as np

from tandem_defense.extras import extra

with extra("pipeline"):
    from scipy.optimize import brentq
    from scipy.stats import binomtest, norm

# For continuity, in images, as McNemar's statistic has it (Edwards 1948): counts are whole numbers,
# a normal distribution's are not. Without it interval and number of images promise too much.
CORRECTION = 1.0


class McNemar(NamedTuple):
    """a and b on the same `n` images: exact two-sided p-value, and how many one alone has."""

    p_value: float
    only_a: int
    only_b: int
    n: int


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
    McNemar(p_value=0.03125, only_a=6, only_b=0, n=7)
    """
    a, b = np.asarray(a_correct, dtype=bool), np.asarray(b_correct, dtype=bool)
    if a.shape != b.shape:
        raise ValueError(f"expected paired answers of one shape, got {a.shape} and {b.shape}")
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    discordant = only_a + only_b
    p_value = float(binomtest(only_a, discordant).pvalue) if discordant else 1.0
    return McNemar(p_value, only_a, only_b, a.size)


def paired_interval(
    only_a: int, only_b: int, n: int, confidence: float = 0.95, correction: float = CORRECTION
) -> tuple[float, float]:
    """Interval of the difference of two shares of the same `n` images, a's less b's, in [-1, 1].

    only_a, only_b : on how many images only a, and only b, is correct
    correction : for continuity, in images; 0 is the interval as Tango printed it

    Tango's score interval (Statistics in Medicine 17, 1998) with the correction that McNemar's
    statistic has. Without it, too small an interval comes of few images: of four that only a has,
    [0.02, 1], where the exact test's p is 0.125. Raises ValueError where the counts cannot be.

    >>> low, high = paired_interval(4, 0, 4)
    >>> round(low, 2), round(high, 2)
    (-0.21, 1.0)
    """
    if n < 1 or min(only_a, only_b) < 0 or only_a + only_b > n:
        problem = f"got only_a {only_a}, only_b {only_b}, n {n}"
        raise ValueError(f"expected counts of 0 or more, together at most n, and n >= 1, {problem}")
    z = norm.ppf(0.5 + confidence / 2)
    high = _upper(only_a, only_b, n, z, correction)
    return -_upper(only_b, only_a, n, z, correction), high


def _upper(only_a, only_b, n, z, correction) -> float:
    """The largest difference that Tango's score test does not reject."""

    def excess(difference):
        # The share of images that only b has, at its most likely for this difference.
        b = (2 * n - only_a + only_b) * difference - only_a - only_b
        c = -only_b * difference * (1 - difference)
        share = (sqrt(max(b * b - 8 * n * c, 0)) - b) / (4 * n)
        variance = n * (2 * share + difference * (1 - difference))
        return only_a - only_b - n * difference + correction + z * sqrt(max(variance, 0))

    if only_a == n:
        return 1.0
    # At a difference of -1 the variance is 0, and the measured difference may be a root of its own.
    return brentq(excess, (only_a - only_b) / n + 1e-9, 1) if excess(1) < 0 else 1.0


def images_to_decide(
    a: float, b: float, discordance: float | None = None, level: float = 0.05, power: float = 0.8
) -> float:
    """On how many images McNemar's two-sided test tells the shares `a` and `b` apart.

    With so many, it rejects at `level` in a share `power` of experiments; a whole number, or inf
    where the shares are equal.

    discordance : the share of images on which exactly one is correct. It lies between |a - b| and
        min(a + b, 2 - a - b), and is moved there; None is the latter, the worst case

    With z the normal quantiles of 1 - level / 2 and of power, ψ the discordance, δ = |a - b| and
    S = z₁ √ψ + z₂ √(ψ - δ²), the number is the root of n δ - S √n = 1. Without the correction on
    the right it is S² / δ² (Connor, Biometrics 43, 1987), where the exact test falls short of the
    power. Raises ValueError where a share is not in [0, 1].

    >>> images_to_decide(0.472, 0.34)
    379
    """
    if wrong := [share for share in (a, b) if not 0 <= share <= 1]:
        raise ValueError(f"expected shares in [0, 1], got {wrong[0]}")
    difference, worst = abs(a - b), min(a + b, 2 - a - b)
    if difference < 1e-12:
        return inf
    psi = worst if discordance is None else min(max(discordance, difference), worst)
    spread = norm.ppf(1 - level / 2) * sqrt(psi)
    spread += norm.ppf(power) * sqrt(max(psi - difference**2, 0))
    root = (spread + sqrt(spread**2 + 4 * difference * CORRECTION)) / (2 * difference)
    return ceil(root**2 - 1e-9)


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
