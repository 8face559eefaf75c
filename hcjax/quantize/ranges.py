"""`calibrate`: how large every value of a network gets on example images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hcjax.graph.constants import evaluate_constants
from hcjax.graph.model import Graph, Model, run
from hcjax.graph.ops import fixed_point
from hcjax.quantize import straight_through

BINS = 2048
METHODS = ("mse", "minmax", "percentile", "entropy")


class Ranges(NamedTuple):
    """What `calibrate` saw of each value of a graph, by its number.

    graph: whose values they are. low, high: the extremes. counts: int64[2048], how many magnitudes
    fell into each equal part of [0, max(|low|, |high|)]. choose: (counts, levels) -> the greatest
    magnitude that is kept, as a part of the greatest seen, in (0, 1].
    """

    graph: Graph
    low: dict[int, float]
    high: dict[int, float]
    counts: dict[int, np.ndarray]
    choose: Callable[[np.ndarray, int], float]

    def step(self, number: int, bits: int) -> tuple[float, int, int]:
        """Returns the step, the least and the greatest integer for a value.

        Args:
          number: of the value.
          bits: 2 to 8.
        """
        least, most = fixed_point.limits(bits, signed=self.low[number] < 0)
        width = max(-self.low[number], self.high[number])
        if width <= 0:
            return 1.0, least, most
        kept = width * self.choose(self.counts[number], most)
        return max(kept / most, straight_through.SMALLEST), least, most


def calibrate(
    model: Model,
    images: Any,
    *,
    method: str = "mse",
    percentile: float = 99.99,
    batch_size: int = 128,
) -> Ranges:
    """Returns the ranges of all of a network's values over example images.

    Args:
      model: whose params are what is calibrated.
      images: float array [N, ...], N >= 1; a few hundred are plenty.
      method: "minmax" keeps all that was seen; "percentile" that part of the magnitudes; "mse" what
        makes the mean squared error of the rounded and clipped value least; "entropy" what keeps
        the distribution's information best.
      percentile: of magnitudes that are kept, in (0, 100], for "percentile".
      batch_size: images at a time.

    Returns:
      Ranges, for `fake_quantize` and `int8`.

    Raises:
      ValueError: if the method is unknown, there are no images or none at a time, or a value is not
        finite; the message names its line.

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
    parts = [images[i : i + batch_size] for i in range(0, len(images), batch_size)]
    seen = _seen(model)
    low, high = {}, {}
    extremes = jax.jit(lambda p, x: _each(model, p, x, seen, lambda n, v: (v.min(), v.max())))
    for part in parts:
        for number, (least, most) in jax.device_get(extremes(model.params, part)).items():
            low[number] = min(low.get(number, np.inf), float(least))
            high[number] = max(high.get(number, -np.inf), float(most))
    for number in low:
        if not np.isfinite([low[number], high[number]]).all():
            raise ValueError(f"{seen[number]} is not finite on these images")
    counts = {number: np.zeros(BINS, np.int64) for number in low}
    if method != "minmax":
        widths = {number: max(-low[number], high[number]) for number in low}
        histograms = jax.jit(
            lambda p, x: _each(model, p, x, seen, lambda n, v: _histogram(v, widths[n]))
        )
        for part in parts:
            for number, found in jax.device_get(histograms(model.params, part)).items():
                counts[number] += found
    choose = {
        "minmax": lambda counts, most: 1.0,
        "percentile": lambda counts, most: _percentile(counts, percentile),
        "mse": _mse,
        "entropy": _entropy,
    }[method]
    return Ranges(model.graph, low, high, counts, choose)


def _seen(model: Model) -> dict[int, str]:
    """Returns what to look at, the images and every float that depends on them: number -> line."""
    ops, _, stretched = evaluate_constants(model)
    found = {model.graph.images: "an image"}
    for op in ops:
        if op.output not in stretched and jnp.issubdtype(op.dtype, jnp.floating):
            found[op.output] = f"{op.source or 'an unknown line'} ({op.kind})"
    return found


def _each(model: Model, params: Any, images: jax.Array, seen: dict, of: Callable) -> dict:
    """Returns what a function gives for each value, by number."""
    found = {}

    def look(number, value):
        if number in seen:
            found[number] = of(number, value.astype(jnp.float32))

    look(model.graph.images, images)
    run(model.graph, model.leaves(params), images, see=look)
    return found


def _histogram(x: jax.Array, width: float) -> jax.Array:
    """Returns int32[BINS]: how many magnitudes lie in each part of [0, width]."""
    scaled = jnp.abs(x).reshape(-1) * (BINS / width if width else 0.0)
    index = jnp.minimum(scaled.astype(jnp.int32), BINS - 1)
    return jnp.zeros(BINS, jnp.int32).at[index].add(1)


def _percentile(counts: np.ndarray, percentile: float) -> float:
    reached = np.cumsum(counts) >= counts.sum() * percentile / 100
    return float(np.argmax(reached) + 1) / BINS


def _mse(counts: np.ndarray, most: int) -> float:
    """Returns the part at which rounding's and clipping's squared errors are least together."""
    centers = (np.arange(BINS) + 0.5) / BINS
    centers[0] = 0.0  # where relu puts most numbers, exactly
    candidates = np.arange(5, 101) / 100
    steps = candidates[:, None] / most
    rounded = np.minimum(np.round(centers / steps), most) * steps
    errors = ((rounded - centers) ** 2 * counts).sum(1)
    return float(candidates[::-1][np.argmin(errors[::-1])])


def _entropy(counts: np.ndarray, most: int) -> float:
    """Returns the part at which the divergence between the kept and the rounded counts is least."""
    counts = counts.copy()
    counts[0] = 0  # what relu puts at 0 is exact on every grid, and no matter of information
    levels = most + 1
    best, least = 1.0, np.inf
    for kept in range(levels, BINS + 1, 16):
        true = counts[:kept].astype(np.float64)
        inside = true.copy()
        true[-1] += counts[kept:].sum()
        group = np.arange(kept) * levels // kept
        filled = inside > 0
        total = np.bincount(group, inside, levels)
        used = np.maximum(np.bincount(group, filled, levels), 1)
        rounded = np.where(filled, (total / used)[group], 0.0)
        p, q = true / max(true.sum(), 1), rounded / max(rounded.sum(), 1)
        both = (p > 0) & (q > 0)
        lost = p[(p > 0) & (q == 0)].sum()  # as if a thousandth were there
        divergence = (p[both] * np.log(p[both] / q[both])).sum() + lost * np.log(1e3)
        if divergence < least:
            best, least = kept / BINS, divergence
    return best
