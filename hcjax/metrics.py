"""Metrics as sums and counts, divided once at the end.

In: logits, labels and a mask or weight per example. Out: sums that may be added over batches,
devices and hosts in any order (`sums` while training, `eval_sums` in evaluation), and
`summarize`, which divides them. Counts are integers, so a score is exact for any batch size and
device count; a padded example adds nothing, even if its logits are NaN.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

NUM_BINS = 15  # as in Guo et al. 2017


def logits_of(outputs: Any) -> jax.Array:
    """Returns the logits among a network's outputs: the first of a tuple, or the only output.

    Args:
      outputs: float[N, K], or (logits, ...), e.g. with activations that a loss reads.

    Example:
      >>> logits_of((1.0, {"conv1": 2.0})), logits_of(1.0)
      (1.0, 1.0)
    """
    return outputs[0] if isinstance(outputs, tuple) else outputs


def sums(logits: jax.Array, labels: jax.Array, weight: jax.Array) -> dict[str, jax.Array]:
    """Computes the weighted sums that a training step reports.

    Args:
      logits: float[N, K].
      labels: int32[N], 0..K-1.
      weight: float32[N] >= 0; 0 for padding, 1 for an ordinary example.

    Returns:
      {"count", "correct", "nll"}: float32[] sums of the weights, of the weights of the examples
      classified right, and of weight × negative log-likelihood in nats.

    Note:
      Labels are not checked under jit. Weights of 0 and 1 give exact counts below 2**24.

    Example:
      >>> logits = jnp.array([[2.0, 0.0], [2.0, 0.0]])
      >>> out = sums(logits, jnp.array([0, 1]), jnp.ones(2))
      >>> float(out["count"]), float(out["correct"]), round(float(out["nll"]), 4)
      (2.0, 1.0, 2.2539)
    """
    weight = weight.astype(jnp.float32)
    counted = weight != 0
    correct = (_rank(logits, labels) == 0) & counted
    return {
        "count": weight.sum(),
        "correct": jnp.where(correct, weight, 0).sum(),
        "nll": jnp.where(counted, weight * _nll(logits, labels), 0).sum(),
    }


def eval_sums(logits: jax.Array, labels: jax.Array, mask: jax.Array) -> dict[str, jax.Array]:
    """Computes the sums behind all evaluation scores.

    Args:
      logits: float[N, K].
      labels: int32[N], 0..K-1 where the mask is True, anything elsewhere.
      mask: bool[N], False for padding.

    Returns:
      "count", "correct" int32[]; "nll" float32[], nats; "confusion" int32[K, K], row = label,
      column = prediction; "bin_count", "bin_correct" int32[15] and "bin_confidence" float32[15],
      per bin of the highest probability; for K > 5 also "top5" int32[], how often the label is
      among the five highest logits.

    Note:
      Ties go to the lower class index. An example with a NaN logit is never correct.

    Reference:
      Guo et al., "On Calibration of Modern Neural Networks", 2017, arXiv:1706.04599, eq. 3: bin
      m holds confidences in ((m-1)/15, m/15].

    Example:
      >>> logits = jnp.array([[2.0, 0.0], [2.0, 0.0], [0.0, 9.0]])
      >>> out = eval_sums(logits, jnp.array([0, 1, 0]), jnp.array([True, True, False]))
      >>> int(out["count"]), int(out["correct"]), out["confusion"].tolist()
      (2, 1, [[1, 0], [1, 0]])
    """
    classes = logits.shape[-1]
    mask = mask.astype(bool)
    one = mask.astype(jnp.int32)
    rank = _rank(logits, labels)
    correct = one * (rank == 0)
    confidence = jax.nn.softmax(logits.astype(jnp.float32)).max(axis=-1)
    confidence = jnp.where(mask, confidence, 0)
    bins = jnp.clip(jnp.ceil(confidence * NUM_BINS).astype(jnp.int32) - 1, 0, NUM_BINS - 1)
    row = jnp.where(mask, labels, 0)
    out = {
        "count": one.sum(),
        "correct": correct.sum(),
        "nll": jnp.where(mask, _nll(logits, labels), 0).sum(),
        "confusion": jnp.zeros((classes, classes), jnp.int32)
        .at[row, logits.argmax(axis=-1)]
        .add(one),
        "bin_count": jnp.zeros(NUM_BINS, jnp.int32).at[bins].add(one),
        "bin_correct": jnp.zeros(NUM_BINS, jnp.int32).at[bins].add(correct),
        "bin_confidence": jnp.zeros(NUM_BINS, jnp.float32).at[bins].add(confidence),
    }
    if classes > 5:
        out["top5"] = (one * (rank < 5)).sum()
    return out


def summarize(sums: Mapping[str, Any]) -> dict[str, Any]:
    """Divides sums by their count and returns the scores, on the host.

    Expected calibration error:  ECE = sum_m n_m / n · |accuracy_m - confidence_m|.

    Args:
      sums: from `sums` or `eval_sums`, added over all batches.

    Returns:
      "examples" int, "accuracy", "error" = 1 - accuracy, "nll" in nats per example; with the sums
      of `eval_sums` also "ece", "per_class" (list of K accuracies, None for a class without
      examples) and, where K > 5, "top5_accuracy". Fractions in [0, 1]; plain Python values,
      ready for JSON.

    Raises:
      ValueError: if nothing was counted.

    Reference:
      Guo et al., "On Calibration of Modern Neural Networks", 2017, arXiv:1706.04599, eq. 3.

    Example:
      >>> out = summarize({"count": 4, "correct": 3, "nll": 2.0})
      >>> out["accuracy"], out["error"], out["nll"], out["examples"]
      (0.75, 0.25, 0.5, 4)
    """
    count = float(sums["count"])
    if not count > 0:
        raise ValueError(f"no example was counted (count {count}); there is nothing to average")
    correct = float(sums["correct"])
    out = {
        "examples": int(count) if count == int(count) else count,
        "accuracy": correct / count,
        "error": (count - correct) / count,
        "nll": float(sums["nll"]) / count,
    }
    if "bin_count" in sums:
        gap = np.asarray(sums["bin_correct"], np.float64) - np.asarray(sums["bin_confidence"])
        out["ece"] = float(np.abs(gap).sum() / count)
    if "confusion" in sums:
        confusion = np.asarray(sums["confusion"], np.int64)
        pairs = zip(confusion.diagonal().tolist(), confusion.sum(axis=1).tolist(), strict=True)
        out["per_class"] = [right / total if total else None for right, total in pairs]
    if "top5" in sums:
        out["top5_accuracy"] = float(sums["top5"]) / count
    return out


def paired(right: np.ndarray, baseline: np.ndarray) -> tuple[float, float | None]:
    """Returns the difference of two models' accuracies on the same examples, and its error.

    With x = right - baseline, each -1, 0 or 1: d = mean(x), and its standard error
    sqrt(sum((x - d)^2) / (n - 1) / n). Examples on which both models agree have x = 0, so the error
    is much smaller than that of two independent scores.

    Args:
      right: bool[n], whether the model is right.
      baseline: bool[n], whether the baseline is right.

    Returns:
      (d, its standard error); fractions of 1. One example has no error: None.

    Example:
      >>> paired(np.array([True, True, False, True]), np.array([True, False, False, True]))
      (0.25, 0.25)
    """
    x = right.astype(np.float64) - baseline
    n = len(x)
    return float(x.mean()), float(x.std(ddof=1) / math.sqrt(n)) if n > 1 else None


def _nll(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns float32[N], minus the log-probability of each label."""
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    return -jnp.take_along_axis(log_p, labels[:, None], axis=-1)[:, 0]


def _rank(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns int32[N], how many classes come before the label; K where a logit is NaN."""
    own = jnp.take_along_axis(logits, labels[:, None], axis=-1)
    earlier = jnp.arange(logits.shape[-1]) < labels[:, None]
    before = (logits > own) | ((logits == own) & earlier)
    bad = jnp.isnan(logits).any(axis=-1)
    return jnp.where(bad, logits.shape[-1], before.sum(axis=-1))
