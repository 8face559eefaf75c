"""`calibrate`: the range, the variance and the histogram of every activation, on example images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hcjax.core import brief
from hcjax.graph.constants import evaluate_constants, trained_numbers
from hcjax.graph.model import Graph, Model, run
from hcjax.graph.ops import fixed_point
from hcjax.graph.ops.kind import LAYER
from hcjax.graph.ops.table import family
from hcjax.quantize import straight_through
from hcjax.quantize.thresholds import BINS, METHODS, chooser

__all__ = ["BINS", "METHODS", "Ranges", "calibrate"]

_NEVER = 50.0  # a constant of at most -50 is a mask: exp(-50) is 0 beside any other term
_GAP = 0.4  # of the range of a masked value holds nothing


class Ranges(NamedTuple):
    """The statistics of each activation of a graph, by its number.

    graph: the calibrated graph. low, high: the extremes. variance: about the mean. numbers: how
    many numbers were observed. counts: int64[BINS], the histogram of magnitudes, over equal bins of
    [0, max(|low|, |high|)]. centred: the same of |x - (low + high) / 2|, over [0, (high - low) / 2]
    and only where 0 is not in [low, high]. masked: activations with a constant such as -1e9 in
    place of numbers that do not count; they stay in float. choose: (counts, qmax) -> the greatest
    magnitude that is not clipped, as a fraction of the greatest observed, in (0, 1].
    """

    graph: Graph
    low: dict[int, float]
    high: dict[int, float]
    variance: dict[int, float]
    numbers: dict[int, int]
    counts: dict[int, np.ndarray]
    centred: dict[int, np.ndarray]
    masked: frozenset[int]
    choose: Callable[[np.ndarray, int], float]

    __repr__ = brief.record

    def step(self, number: int, bits: int) -> tuple[float, int, int]:
        """Returns (scale, qmin, qmax) of an activation, without a zero point.

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
      Ranges, for `fake_quantize` and `int8`. An activation in which a constant such as -1e9 or
      -inf stands for "never", as in attention, is listed as masked.

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
    choose = chooser(method, percentile)
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    images = np.asarray(images)
    model.check(images)
    if not len(images):
        raise ValueError("no images to calibrate with")
    batches = [images[i : i + batch_size] for i in range(0, len(images), batch_size)]
    sources = _sources(model)

    def over_batches(function: Callable) -> list[dict]:
        compute = jax.jit(lambda p, x: _map_activations(model, p, x, sources, function))
        return [jax.device_get(compute(model.params, batch)) for batch in batches]

    moments: dict[int, _Moments] = {}
    for batch in over_batches(lambda number, x: _moments(x)):
        for number, found in batch.items():
            new = _Moments(*(np.float64(each) for each in found))
            with np.errstate(over="ignore", invalid="ignore"):  # of masks near float32's end
                moments[number] = _merged(moments[number], new) if number in moments else new
    never = _nevers(model)
    for number, found in moments.items():
        infinite = found.infinite and not never.get(number)
        if found.undefined or infinite or not np.isfinite([found.low, found.high]).all():
            raise ValueError(f"{sources[number]} is not finite on these images")
    low = {number: float(found.low) for number, found in moments.items()}
    high = {number: float(found.high) for number, found in moments.items()}
    centers = {number: _middle(low[number], high[number]) for number in low}
    widths = {number: max(-low[number], high[number]) for number in low}
    counts = {number: np.zeros(BINS, np.int64) for number in low}
    centred = {n: np.zeros(BINS, np.int64) for n, center in centers.items() if center}
    if method != "minmax" or any(never.values()):

        def histograms(number, x):
            found = [_histogram(x, widths[number])]
            if number in centred:
                middle = centers[number]
                found.append(_histogram(x - middle, (high[number] - low[number]) / 2))
            return found

        for batch in over_batches(histograms):
            for number, found in batch.items():
                counts[number] += found[0]
                if number in centred:
                    centred[number] += found[1]
    masked = {
        number
        for number, constant in never.items()
        if number in moments
        and (
            moments[number].infinite
            or _has_gap(counts[number], low[number], high[number], constant)
        )
    }
    variance = {n: float(m.deviation / max(m.count, 1.0)) for n, m in moments.items()}
    numbers = {n: int(m.count) for n, m in moments.items()}
    ranges = (low, high, variance, numbers, counts, centred)
    return Ranges(model.graph, *ranges, frozenset(masked), choose)


def _middle(low: float, high: float) -> float:
    """Returns the middle of a range that does not hold 0, and 0 for one that does."""
    return (low + high) / 2 if low > 0 or high < 0 else 0.0


class _Moments(NamedTuple):
    """Of the finite numbers of an array; deviation: the sum of squared differences from the mean.

    infinite: whether there is an infinity; undefined: whether there is a NaN.
    """

    low: Any
    high: Any
    mean: Any
    deviation: Any
    count: Any
    infinite: Any
    undefined: Any


def _moments(x: jax.Array) -> _Moments:
    """Returns the moments of a float32 array; an array without numbers has those of one 0."""
    if not x.size:
        return _Moments(0.0, 0.0, 0.0, 0.0, 0.0, False, False)
    finite = jnp.isfinite(x)
    count = finite.sum(dtype=jnp.float32)
    mean = jnp.where(finite, x, 0).sum() / jnp.maximum(count, 1)
    return _Moments(
        jnp.where(finite, x, jnp.inf).min(),
        jnp.where(finite, x, -jnp.inf).max(),
        mean,
        (jnp.where(finite, x - mean, 0) ** 2).sum(),
        count,
        jnp.isinf(x).any(),
        jnp.isnan(x).any(),
    )


def _merged(a: _Moments, b: _Moments) -> _Moments:
    """Returns the moments of two arrays together, by Chan, Golub and LeVeque's formula."""
    count = a.count + b.count
    part, apart = b.count / max(count, 1.0), b.mean - a.mean
    return _Moments(
        min(a.low, b.low),
        max(a.high, b.high),
        a.mean + apart * part,
        a.deviation + b.deviation + apart**2 * a.count * part,
        count,
        a.infinite or b.infinite,
        a.undefined or b.undefined,
    )


def _sources(model: Model) -> dict[int, str]:
    """Returns number -> source line, of the images and of every float activation."""
    ops, _, batch_shaped = evaluate_constants(model)
    sources = {model.graph.images: "an image"}
    for op in ops:
        for number in op.outputs:
            if number not in batch_shaped and jnp.issubdtype(op.dtype, jnp.floating):
                sources[number] = f"{op.source or 'an unknown line'} ({op.kind})"
    return sources


def _nevers(model: Model) -> dict[int, float]:
    """Returns number -> the greatest constant that is part of an activation, if it is a mask's.

    Only constants that no parameter changes count, from the last layer on.
    """
    ops, values, batch_shaped = evaluate_constants(model)
    constants, trained = values | batch_shaped, trained_numbers(model)
    nevers: dict[int, float] = {}

    def magnitude(number: int) -> float:
        value = constants.get(number)
        if value is None or number in trained or not jnp.issubdtype(value.dtype, jnp.floating):
            return nevers.get(number, 0.0)
        return float(np.abs(np.asarray(value, np.float32)).max(initial=0))

    for op in ops:
        greatest = 0.0 if family(op) == LAYER else max(map(magnitude, op.inputs), default=0.0)
        if greatest >= _NEVER and op.output not in constants:
            nevers |= dict.fromkeys(op.outputs, greatest)
    return nevers


def _has_gap(counts: np.ndarray, low: float, high: float, constant: float) -> bool:
    """Returns whether numbers near a constant are far from all others, with nothing between.

    counts: of magnitudes. A positive one must be larger: pixels may be 0 and 255.
    """
    least = _NEVER if -low > high else _NEVER**2
    if not least <= max(-low, high) <= 4 * constant:
        return False
    used = np.flatnonzero(counts)
    return bool(len(used) > 1 and np.diff(used).max() >= _GAP * BINS)


def _map_activations(
    model: Model, params: Any, images: jax.Array, numbers: dict, function: Callable
) -> dict:
    """Returns number -> function(number, activation), for some numbers of a graph."""
    results = {}

    def collect(number, value):
        floating = number == model.graph.images or jnp.issubdtype(value.dtype, jnp.floating)
        if number in numbers and floating:
            results[number] = function(number, value.astype(jnp.float32))

    collect(model.graph.images, images)
    run(model.graph, model.leaves(params), images, visit=collect)
    return results


def _histogram(x: jax.Array, width: float) -> jax.Array:
    """Returns int32[BINS], the histogram of |x| over equal bins of [0, width]; no infinities."""
    scaled = jnp.abs(x).reshape(-1) * (BINS / width if width else 0.0)
    index = jnp.minimum(scaled.astype(jnp.int32), BINS - 1)
    return jnp.zeros(BINS, jnp.int32).at[index].add(1)
