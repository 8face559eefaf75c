"""`calibrate`: the range and the histogram of every activation, over example images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hcjax.core import brief
from hcjax.graph.constants import evaluate_constants
from hcjax.graph.model import Graph, Model, run
from hcjax.graph.ops import fixed_point
from hcjax.quantize import straight_through

BINS = 2048
METHODS = ("mse", "minmax", "percentile", "entropy")


class Ranges(NamedTuple):
    """The statistics of each activation of a graph, by its number.

    graph: the calibrated graph. low, high: the extremes. counts: int64[2048], the histogram of
    magnitudes, over equal bins of [0, max(|low|, |high|)]. choose: (counts, qmax) -> the greatest
    magnitude that is not clipped, as a fraction of the greatest observed, in (0, 1].
    """

    graph: Graph
    low: dict[int, float]
    high: dict[int, float]
    counts: dict[int, np.ndarray]
    choose: Callable[[np.ndarray, int], float]

    __repr__ = brief.record

    def step(self, number: int, bits: int) -> tuple[float, int, int]:
        """Returns (scale, qmin, qmax) of an activation.

        Args:
          number: of the activation in the graph.
          bits: 2 to 8.
        """
        qmin, qmax = fixed_point.limits(bits, signed=self.low[number] < 0)
        width = max(-self.low[number], self.high[number])
        if width <= 0:
            return 1.0, qmin, qmax
        threshold = width * self.choose(self.counts[number], qmax)
        return max(threshold / qmax, straight_through.SMALLEST), qmin, qmax


def calibrate(
    model: Model,
    images: Any,
    *,
    method: str = "mse",
    percentile: float = 99.99,
    batch_size: int = 128,
) -> Ranges:
    """Returns the ranges of all activations of a network over example images.

    Args:
      model: in float, with the params to calibrate.
      images: float array [N, ...], N >= 1; a few hundred are plenty.
      method: chooses the clipping threshold of each activation. "minmax": the greatest magnitude;
        "percentile": that percentile of the magnitudes; "mse": the least mean squared error of
        rounding and clipping together; "entropy": the least KL divergence between the
        distributions before and after rounding.
      percentile: in (0, 100], for "percentile".
      batch_size: images in one call.

    Returns:
      Ranges, for `fake_quantize` and `int8`.

    Raises:
      ValueError: if the method is unknown, there are no images, batch_size < 1, or an activation is
        not finite; the message names its source line.

    Reference:
      Entropy: Migacz, "8-bit Inference with TensorRT", GTC 2017.

    Example:
      >>> from hcjax.graph.tracing.trace import trace
      >>> images = jnp.array([[0.0], [1.0], [3.0]])
      >>> ranges = calibrate(trace(lambda p, x: x * p, jnp.ones(1), images), images)
      >>> ranges.low[ranges.graph.images], ranges.high[ranges.graph.images]
      (0.0, 3.0)
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if not 0 < percentile <= 100:
        raise ValueError(f"percentile must be in (0, 100], got {percentile}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    images = np.asarray(images)
    model.check(images)
    if not len(images):
        raise ValueError("no images to calibrate with")
    batches = [images[i : i + batch_size] for i in range(0, len(images), batch_size)]
    sources = _sources(model)
    low, high = {}, {}
    extremes = jax.jit(
        lambda p, x: _map_activations(model, p, x, sources, lambda n, v: (v.min(), v.max()))
    )
    for batch in batches:
        for number, (least, greatest) in jax.device_get(extremes(model.params, batch)).items():
            low[number] = min(low.get(number, np.inf), float(least))
            high[number] = max(high.get(number, -np.inf), float(greatest))
    for number in low:
        if not np.isfinite([low[number], high[number]]).all():
            raise ValueError(f"{sources[number]} is not finite on these images")
    counts = {number: np.zeros(BINS, np.int64) for number in low}
    if method != "minmax":
        widths = {number: max(-low[number], high[number]) for number in low}
        histograms = jax.jit(
            lambda p, x: _map_activations(
                model, p, x, sources, lambda n, v: _histogram(v, widths[n])
            )
        )
        for batch in batches:
            for number, histogram in jax.device_get(histograms(model.params, batch)).items():
                counts[number] += histogram
    choose = {
        "minmax": lambda counts, qmax: 1.0,
        "percentile": lambda counts, qmax: _percentile(counts, percentile),
        "mse": _mse,
        "entropy": _entropy,
    }[method]
    return Ranges(model.graph, low, high, counts, choose)


def _sources(model: Model) -> dict[int, str]:
    """Returns number -> source line, of the images and of every float activation."""
    ops, _, batch_shaped = evaluate_constants(model)
    sources = {model.graph.images: "an image"}
    for op in ops:
        if op.output not in batch_shaped and jnp.issubdtype(op.dtype, jnp.floating):
            sources[op.output] = f"{op.source or 'an unknown line'} ({op.kind})"
    return sources


def _map_activations(
    model: Model, params: Any, images: jax.Array, numbers: dict, function: Callable
) -> dict:
    """Returns number -> function(number, activation), for some numbers of a graph."""
    results = {}

    def collect(number, value):
        if number in numbers:
            value = value if value.size else jnp.zeros(1)  # of no elements: as of a 0
            results[number] = function(number, value.astype(jnp.float32))

    collect(model.graph.images, images)
    run(model.graph, model.leaves(params), images, visit=collect)
    return results


def _histogram(x: jax.Array, width: float) -> jax.Array:
    """Returns int32[BINS], the histogram of |x| over equal bins of [0, width]."""
    scaled = jnp.abs(x).reshape(-1) * (BINS / width if width else 0.0)
    index = jnp.minimum(scaled.astype(jnp.int32), BINS - 1)
    return jnp.zeros(BINS, jnp.int32).at[index].add(1)


def _percentile(counts: np.ndarray, percentile: float) -> float:
    reached = np.cumsum(counts) >= counts.sum() * percentile / 100
    return float(np.argmax(reached) + 1) / BINS


def _mse(counts: np.ndarray, qmax: int) -> float:
    """Returns the threshold with the least squared error of rounding and clipping together."""
    centers = (np.arange(BINS) + 0.5) / BINS
    centers[0] = 0.0  # most numbers behind a relu are exactly 0
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
