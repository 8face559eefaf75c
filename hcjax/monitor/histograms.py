"""Histograms of a few numbers an example: of known data, and of a window of others.

In: arrays of N examples. Out: plain dicts, which JSON can hold. Counts of windows are added.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from hcjax.errors import DataError

Counts = dict[str, np.ndarray]


def features(logits: Any, inputs: Any = None) -> dict[str, np.ndarray]:
    """Computes what is watched of a classifier: classes, confidence, and the inputs' statistics.

    Args:
      logits: float[N, K].
      inputs: numbers[N, ...] that they were computed from; None to leave their statistics out.

    Returns:
      dict: `class`, int64[N], the likeliest; `confidence`, float64[N], of that class as log-odds,
      log(p / (1 - p)), which still differs where p rounds to 1; `input_mean` and `input_std`,
      float64[N], of each example's numbers. Any other float[N] or int[N] may be added, e.g. the
      mean of an activation.

    Example:
      >>> found = features(np.array([[0.0, 2.0], [3.0, 0.0]]), np.array([[1.0, 3.0], [2.0, 2.0]]))
      >>> found["class"].tolist(), found["confidence"].tolist()
      ([1, 0], [2.0, 3.0])
      >>> found["input_mean"].tolist(), found["input_std"].tolist()
      ([2.0, 2.0], [1.0, 0.0])
    """
    logits = np.asarray(logits, np.float64)
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise DataError(f"expected logits [N, K] of K >= 2 classes, found {logits.shape}")
    rows, likeliest = np.arange(len(logits)), logits.argmax(1)
    shifted = logits - logits[rows, likeliest][:, None]
    others = np.exp(shifted)
    others[rows, likeliest] = 0
    with np.errstate(divide="ignore"):  # others may be 0: then the log-odds are infinite
        found = {"class": likeliest, "confidence": -np.log(others.sum(1))}
    if inputs is not None:
        flat = np.asarray(inputs).reshape(len(logits), -1)
        found["input_mean"] = flat.mean(1, dtype=np.float64)
        found["input_std"] = flat.std(1, dtype=np.float64)
    return found


def reference(
    values: Mapping[str, Any], *, bins: int = 10, classes: int | None = None
) -> dict[str, dict[str, list]]:
    """Computes the histograms of known data, e.g. of the test set.

    Args:
      values: name -> array[N], as of `features`. Integers >= 0 are categories; floats are cut into
        bins at their quantiles.
      bins: at most, of each float; fewer where values repeat.
      classes: categories of the integers; None for as many as are there.

    Returns:
      dict: name -> {"edges": B - 1 numbers, "counts": B whole numbers}. x is in bin i if edges[i-1]
      < x <= edges[i]. Categories have no edges, and a last bin for all others. JSON can hold it.

    Raises:
      DataError: if an array is empty, or not of one number an example.

    Example:
      >>> reference({"x": np.arange(8.0), "class": np.array([0, 1, 1, 1])}, bins=4)["x"]
      {'edges': [1.75, 3.5, 5.25], 'counts': [2, 2, 2, 2]}
      >>> reference({"class": np.array([0, 1, 1, 1])}, classes=3)["class"]
      {'edges': [], 'counts': [1, 3, 0, 0]}
    """
    found = {}
    for name, x in values.items():
        x = np.asarray(x)
        if x.ndim != 1 or not x.size:
            raise DataError(f"expected one number an example of {name}, found {x.shape}")
        edges: list[float] = []
        if x.dtype.kind == "f":
            finite = x[np.isfinite(x)]
            cuts = np.quantile(finite, np.arange(1, bins) / bins) if finite.size else []
            edges = sorted({float(f"{cut:.6g}") for cut in cuts})
            counts = _counted(x, edges, len(edges) + 1)
        else:
            counts = _counted(x, [], (classes or int(x.max()) + 1) + 1)
        found[name] = {"edges": edges, "counts": counts.tolist()}
    return found


def count(known: Mapping[str, Mapping[str, Any]], values: Mapping[str, Any]) -> Counts:
    """Counts the values of a window in the bins of a reference.

    Args:
      known: a reference. values: name -> array[N], at least those that the reference has.

    Returns:
      dict: name -> int64[B].

    Raises:
      DataError: if a value is missing.

    Example:
      >>> known = reference({"x": np.arange(8.0)}, bins=4)
      >>> count(known, {"x": np.array([0.0, 6.0, 99.0])})["x"].tolist()
      [1, 0, 0, 2]
    """
    if missing := [name for name in known if name not in values]:
        raise DataError(f"the reference has {', '.join(known)}; values lack {', '.join(missing)}")
    return {
        name: _counted(np.asarray(values[name]), each["edges"], len(each["counts"]))
        for name, each in known.items()
    }


def add(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> Counts:
    """Adds the counts of two windows.

    Args:
      one, other: as of `count`, of the same reference.

    Example:
      >>> add({"x": np.array([1, 2])}, {"x": np.array([0, 5])})["x"].tolist()
      [1, 7]
    """
    return {name: one[name] + other[name] for name in one}


def _counted(x: np.ndarray, edges: list[float], size: int) -> np.ndarray:
    """Counts numbers, or categories where there are no edges; NaN and others are in the last."""
    bins = np.searchsorted(np.asarray(edges, np.float64), x) if len(edges) else x.astype(np.int64)
    return np.bincount(np.clip(bins, 0, size - 1), minlength=size)
