"""How far the histograms of a window are from those of a reference, and how likely by chance.

In: counts of the same bins. Out: the population stability index, the Kolmogorov-Smirnov distance
and Pearson's chi-squared statistic of two samples, with p-values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from scipy import special

from hcjax.errors import DataError

_LEAST = 1e-4  # share of a bin, so that the logarithm is finite


class Drift(NamedTuple):
    """How far one number of a window is from the reference.

    psi: population stability index, in nats; above 0.2 is a change by custom. ks: greatest
    difference of the distribution functions, 0..1; None of categories. ks_p: its p-value, or None.
    chi2: Pearson's statistic. chi2_p: its p-value. examples: of the window.
    """

    psi: float
    ks: float | None
    ks_p: float | None
    chi2: float
    chi2_p: float
    examples: int


def psi(known: Any, counts: Any) -> float:
    """Computes the population stability index, sum of (q - p) log(q / p).

    Args:
      known: counts of the reference, [B], whose shares are p. counts: of the window, [B], whose
        shares are q. Shares are made at least 1e-4.

    Returns:
      float >= 0, in nats.

    Example:
      >>> psi([50, 50], [30, 30])
      0.0
      >>> round(psi([50, 50], [90, 10]), 2)
      0.88
    """
    p, q = (np.maximum(x / x.sum(), _LEAST) for x in _pair(known, counts))
    return float(np.sum((q - p) * np.log(q / p)))


def ks(known: Any, counts: Any) -> tuple[float, float]:
    """Computes the Kolmogorov-Smirnov test of two samples whose values are in ordered bins.

    Args:
      known: counts of the reference, [B], n of them. counts: of the window, [B], m of them.

    Returns:
      (max |P - Q| over the bins' edges, p-value by Kolmogorov's limit at sqrt(n m / (n + m))). With
      bins in place of values the p-value is too great, never too small.

    Example:
      >>> distance, p = ks([50, 50], [90, 10])
      >>> round(distance, 6), p < 1e-6
      (0.4, True)
    """
    one, other = _pair(known, counts)
    n, m = one.sum(), other.sum()
    distance = float(np.abs(one.cumsum() / n - other.cumsum() / m).max())
    return distance, float(special.kolmogorov(np.sqrt(n * m / (n + m)) * distance))


def chi2(known: Any, counts: Any) -> tuple[float, float]:
    """Computes Pearson's chi-squared test of whether two samples have one distribution.

    Args:
      known: counts of the reference, [B], n of them. counts: of the window, [B], m of them.

    Returns:
      (sum over bins of (sqrt(m / n) a - sqrt(n / m) b)^2 / (a + b), p-value with as many degrees of
      freedom as bins that are not empty in both, less one). It holds where about 5 are expected in
      each bin.

    Example:
      >>> statistic, p = chi2([50, 50], [60, 40])
      >>> round(statistic, 2), round(p, 3)
      (2.02, 0.155)
    """
    one, other = _pair(known, counts)
    n, m, there = one.sum(), other.sum(), (one + other) > 0
    one, other = one[there], other[there]
    parts = (np.sqrt(m / n) * one - np.sqrt(n / m) * other) ** 2 / (one + other)
    statistic, freedom = float(parts.sum()), int(there.sum()) - 1
    return statistic, float(special.chdtrc(freedom, statistic)) if freedom else 1.0


def drift(
    known: Mapping[str, Mapping[str, Any]], counts: Mapping[str, np.ndarray]
) -> dict[str, Drift]:
    """Compares a window with a reference.

    Args:
      known: as of `reference`. counts: as of `count`, of at least one example.

    Returns:
      dict: name -> Drift.

    Raises:
      DataError: if the counts are empty or of other bins.

    Example:
      >>> known = {"class": {"edges": [], "counts": [50, 50, 0]}}
      >>> drift(known, {"class": np.array([90, 10, 0])})["class"].chi2_p < 1e-6
      True
    """
    found = {}
    for name, each in known.items():
        one, other = each["counts"], counts[name]
        distance = ks(one, other) if each["edges"] else (None, None)
        found[name] = Drift(psi(one, other), *distance, *chi2(one, other), int(np.sum(other)))
    return found


def worst(found: Mapping[str, Drift]) -> tuple[str, float]:
    """Finds the number that has drifted most surely.

    Args:
      found: as of `drift`.

    Returns:
      (its name, the p-value of all together): the least p-value of chi-squared times how many there
      are (Bonferroni), at most 1. An alarm at 0.05 is false in at most 5 % of clean windows.

    Example:
      >>> one, other = Drift(0, 0, 1, 0, 0.5, 9), Drift(0, 0, 1, 0, 0.01, 9)
      >>> worst({"a": one, "b": other})
      ('b', 0.02)
    """
    name = min(found, key=lambda name: found[name].chi2_p)
    return name, min(1.0, len(found) * found[name].chi2_p)


def _pair(known: Any, counts: Any) -> tuple[np.ndarray, np.ndarray]:
    one, other = np.asarray(known, np.float64), np.asarray(counts, np.float64)
    if one.shape != other.shape or one.ndim != 1 or not one.sum() or not other.sum():
        raise DataError(
            f"expected two samples in the same bins, found {one.shape} of {one.sum():.0f} and "
            f"{other.shape} of {other.sum():.0f}"
        )
    return one, other
