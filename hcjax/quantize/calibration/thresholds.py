"""The methods of calibration: each chooses what magnitude of an activation is not clipped."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

BINS = 2048
METHODS = ("mse", "minmax", "percentile", "entropy")


def chooser(method: str, percentile: float = 99.99) -> Callable[[np.ndarray, int], float]:
    """Returns a method as a function (histogram, qmax) -> threshold.

    Args:
      method: one of `METHODS`.
      percentile: in (0, 100], for "percentile".

    Returns:
      Function of counts int64[BINS], over equal bins of magnitudes up to the greatest, and of the
      greatest integer. Its result is the greatest magnitude that is not clipped, as a fraction of
      the greatest observed, in (0, 1].

    Raises:
      ValueError: if an argument is out of range.

    Example:
      >>> counts = np.zeros(BINS, np.int64)
      >>> counts[:1024] = 1
      >>> chooser("percentile", 100.0)(counts, 127), chooser("minmax")(counts, 127)
      (0.5, 1.0)
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if not 0 < percentile <= 100:
        raise ValueError(f"percentile must be in (0, 100], got {percentile}")
    return {
        "minmax": lambda counts, qmax: 1.0,
        "percentile": lambda counts, qmax: _percentile(counts, percentile),
        "mse": _mse,
        "entropy": _entropy,
    }[method]


def rounding_error(counts: np.ndarray, threshold: float, scale: float) -> float:
    """Returns the sum of squared errors of rounding and clipping a histogram's magnitudes.

    Args:
      counts: int64[BINS], over equal bins of [0, 1].
      threshold: the greatest magnitude that is not clipped, > 0.
      scale: magnitudes are rounded to multiples of it, > 0.

    Example:
      >>> counts = np.zeros(BINS, np.int64)
      >>> counts[-1] = 4  # four numbers of nearly 1, rounded to 0.5
      >>> round(rounding_error(counts, 0.5, 0.5 / 127), 2)
      1.0
    """
    centers = _centers()
    rounded = np.minimum(np.round(centers / scale) * scale, threshold)
    return float(((rounded - centers) ** 2 * counts).sum())


def _centers() -> np.ndarray:
    centers = (np.arange(BINS) + 0.5) / BINS
    centers[0] = 0.0  # most numbers behind a relu are exactly 0
    return centers


def _percentile(counts: np.ndarray, percentile: float) -> float:
    reached = np.cumsum(counts) >= counts.sum() * percentile / 100
    return float(np.argmax(reached) + 1) / BINS


def _mse(counts: np.ndarray, qmax: int) -> float:
    """Returns the threshold with the least squared error of rounding and clipping together."""
    centers = _centers()
    candidates = np.arange(5, 101) / 100
    scales = candidates[:, None] / qmax
    rounded = np.minimum(np.round(centers / scales), qmax) * scales
    errors = ((rounded - centers) ** 2 * counts).sum(1)
    return float(candidates[::-1][np.argmin(errors[::-1])])


def _entropy(counts: np.ndarray, qmax: int) -> float:
    """Returns the threshold with the least KL divergence of the clipped from the rounded counts."""
    counts = counts.copy()
    counts[0] = 0  # every scale represents 0 exactly
    levels = qmax + 1
    best, least = 1.0, np.inf
    for bins in range(levels, BINS + 1, 16):
        true = counts[:bins].astype(np.float64)
        inside = true.copy()
        true[-1] += counts[bins:].sum()
        group = np.arange(bins) * levels // bins
        filled = inside > 0
        total = np.bincount(group, inside, levels)
        used = np.maximum(np.bincount(group, filled, levels), 1)
        rounded = np.where(filled, (total / used)[group], 0.0)
        p, q = true / max(true.sum(), 1), rounded / max(rounded.sum(), 1)
        both = (p > 0) & (q > 0)
        lost = p[(p > 0) & (q == 0)].sum()  # q as p / 1000 there, not 0
        divergence = (p[both] * np.log(p[both] / q[both])).sum() + lost * np.log(1e3)
        if divergence < least:
            best, least = bins / BINS, divergence
    return best
