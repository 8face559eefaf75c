"""`calibrate`: the range, the variance and the histogram of every activation, on example images."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hcjax.core import brief
from hcjax.graph import interface
from hcjax.graph.constants import evaluate_constants
from hcjax.graph.interface import names
from hcjax.graph.model import Graph, Model, Op, input_dtypes, run
from hcjax.graph.ops import fixed_point
from hcjax.quantize import straight_through
from hcjax.quantize.calibration import masks, moments
from hcjax.quantize.calibration.thresholds import BINS, chooser


class Ranges(NamedTuple):
    """The statistics of each activation of a graph, by its number.

    graph: the calibrated graph. low, high: the extremes. variance: about the mean. counts:
    int64[BINS], the histogram of magnitudes, over equal bins of [0, max(|low|, |high|)]. centred:
    the same of |x - (low + high) / 2|, over [0, (high - low) / 2] and only where 0 is not in [low,
    high]. masked: activations with a constant such as -1e9 in place of numbers that do not count;
    they stay in float. choose: (counts, qmax) -> the greatest magnitude that is not clipped, as a
    fraction of the greatest observed, in (0, 1].
    """

    graph: Graph
    low: dict[int, float]
    high: dict[int, float]
    variance: dict[int, float]
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
    *inputs: Any,
    images: Any = None,
    method: str = "mse",
    percentile: float = 99.99,
    batch_size: int = 128,
) -> Ranges:
    """Returns the ranges of all activations of a network over example images.

    Args:
      model: in float, with the params to calibrate.
      inputs: examples of its inputs, e.g. images float[N, ...], N >= 1; a few hundred are plenty.
        images: the last of them, as a keyword.
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
      ValueError: if the method is unknown, the inputs are not the network's, there are none,
        batch_size < 1, or an activation is not finite; the message names its source line.

    Reference:
      Entropy: Migacz, "8-bit Inference with TensorRT", GTC 2017.

    Example:
      >>> from hcjax.graph.tracing.trace import trace
      >>> images = jnp.array([[0.0], [1.0], [3.0]])
      >>> ranges = calibrate(trace(lambda p, x: x * p, jnp.ones(1), images), images)
      >>> (images,) = ranges.graph.inputs
      >>> ranges.low[images], ranges.high[images]
      (0.0, 3.0)
    """
    choose = chooser(method, percentile)
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    inputs = inputs if images is None else (*inputs, images)
    given = inputs if len(model.inputs) > 1 else inputs[0] if len(inputs) == 1 else None
    batches = interface.batches(model.inputs, model.arrays(given), batch_size)
    ops, values, batch_shaped = evaluate_constants(model)
    sources = _sources(model, ops, batch_shaped)

    def over_batches(function: Callable) -> list[dict]:
        compute = jax.jit(lambda p, x: _map_activations(model, p, x, sources, function))
        return [jax.device_get(compute(model.params, batch)) for batch in batches]

    never = masks.constants(model, ops, values | batch_shaped)
    found_of: dict[int, moments.Moments] = {}
    for batch in over_batches(lambda number, x: moments.moments(x, holed=number in never)):
        for number, found in batch.items():
            new = moments.Moments(*(np.float64(each) for each in found))
            with np.errstate(over="ignore", invalid="ignore"):  # of masks near float32's end
                found_of[number] = (
                    moments.merged(found_of[number], new) if number in found_of else new
                )
    for number, found in found_of.items():
        if not np.isfinite([found.low, found.high]).all():
            raise ValueError(f"{sources[number]} is not finite on these images")
    low = {number: float(found.low) for number, found in found_of.items()}
    high = {number: float(found.high) for number, found in found_of.items()}
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
        if number in found_of
        and (
            found_of[number].infinite
            or masks.has_gap(counts[number], low[number], high[number], constant)
        )
    }
    variance = {n: float(m.deviation / max(m.count, 1.0)) for n, m in found_of.items()}
    ranges = (low, high, variance, counts, centred)
    return Ranges(model.graph, *ranges, frozenset(masked), choose)


def _middle(low: float, high: float) -> float:
    """Returns the middle of a range that does not hold 0, and 0 for one that does."""
    return (low + high) / 2 if low > 0 or high < 0 else 0.0


def _sources(model: Model, ops: Sequence[Op], batch_shaped: Container[int]) -> dict[int, str]:
    """Returns number -> source line, of every float input and activation."""
    inputs = zip(model.graph.inputs, names(model.inputs, "an image"), strict=True)
    dtypes = input_dtypes(model)
    sources = {n: name for n, name in inputs if jnp.issubdtype(dtypes[n], jnp.floating)}
    for op in ops:
        for number in op.outputs:
            if number not in batch_shaped and jnp.issubdtype(op.dtype, jnp.floating):
                sources[number] = f"{op.source or 'an unknown line'} ({op.kind})"
    return sources


def _map_activations(
    model: Model, params: Any, inputs: Sequence[Any], numbers: dict, function: Callable
) -> dict:
    """Returns number -> function(number, activation), for some numbers of a graph."""
    results = {}

    def collect(number, value):
        if number in numbers and jnp.issubdtype(value.dtype, jnp.floating):
            results[number] = function(number, value.astype(jnp.float32))

    for number, x in zip(model.graph.inputs, inputs, strict=True):
        collect(number, x)
    run(model.graph, model.leaves(params), inputs, visit=collect)
    return results


def _histogram(x: jax.Array, width: float) -> jax.Array:
    """Returns int32[BINS], the histogram of |x| over equal bins of [0, width]; no infinities."""
    scaled = jnp.abs(x).reshape(-1) * (BINS / width if width else 0.0)
    index = jnp.minimum(scaled.astype(jnp.int32), BINS - 1)
    return jnp.zeros(BINS, jnp.int32).at[index].add(1)
