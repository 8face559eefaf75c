"""Grids: the integers of an activation and what they mean, with a zero point where it pays.

real = scale · (q - zero). Without a zero point the grid is symmetric about 0, or starts there; half
of the int8 levels are lost on numbers that are never negative, and nearly all on numbers far from
0. With one, all 2^bits levels lie between the least and the greatest number. q stays int8 in -128
to 127, so that no sum of two products with kernels in ±127 leaves int16: 2 · 128 · 127 = 32,512.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from hcjax.quantize.calibration.ranges import Ranges
from hcjax.quantize.calibration.thresholds import rounding_error
from hcjax.quantize.straight_through import SMALLEST

_PAYS = 0.8  # of the symmetric step, at most: 2 dB less noise, at least
_END_EXACT = 16  # steps from 0 to the nearer end, at least: they grow by 1/16 at most
_FARTHEST = 2**20  # of a zero point: float32 holds zero · scale to 1/16 of a step


class Grid(NamedTuple):
    """real = scale · (q - zero), for qmin <= q <= qmax.

    scale: a float > 0. zero: 0 for none; outside [qmin, qmax] if no integer represents 0.
    """

    scale: float
    qmin: int
    qmax: int
    zero: int = 0


def grid(ranges: Ranges, number: int, bits: int, *, zero_point: bool, holds_zero: bool) -> Grid:
    """Returns the grid of an activation: with a zero point if its steps are then 0.8 as long.

    Args:
      ranges: from `calibrate`.
      number: of the activation.
      bits: 2 to 8.
      zero_point: whether one is allowed.
      holds_zero: whether some integer must represent 0, as for an array that is padded.

    Returns:
      Grid. With a zero point, scale = (high - low) / (2^bits - 1) and zero = round(qmin - low /
      scale), for [low, high] clipped by the method of the ranges. [low, high] holds 0, unless no
      observed number is 0 or has the other sign; then 0 is an integer, and so is the end nearer to
      it if it is 16 steps away or more.

    Example:
      >>> import jax.numpy as jnp
      >>> from hcjax import calibrate, trace
      >>> x = jnp.array([[1000.0], [1010.0]])
      >>> model = trace(lambda p, x: x * p, jnp.ones(1), x)
      >>> ranges = calibrate(model, x, method="minmax")
      >>> found = grid(ranges, model.graph.inputs[0], 8, zero_point=True, holds_zero=False)
      >>> round(found.scale, 3), found.zero
      (0.039, -25628)
    """
    plain = Grid(*ranges.step(number, bits))
    if not zero_point:
        return plain
    qmin, qmax = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    levels, low, high = qmax - qmin, ranges.low[number], ranges.high[number]
    if number in ranges.centred and not holds_zero and high > low:
        middle, half = (low + high) / 2, (high - low) / 2
        half *= ranges.choose(ranges.centred[number], qmax)
        far = _between(middle - half, middle + half, qmin, qmax)
        if abs(far.zero) < _FARTHEST and far.scale <= _PAYS * plain.scale:
            return far
    low, high = min(low, 0.0), max(high, 0.0)
    if not high > low:
        return plain
    width = max(-low, high)
    threshold = width * ranges.choose(ranges.counts[number], round(levels * width / (high - low)))
    near = _holding_zero(max(low, -threshold), min(high, threshold), qmin, qmax)
    return near if near.scale <= _PAYS * plain.scale else plain


def _holding_zero(low: float, high: float, qmin: int, qmax: int) -> Grid:
    """Returns the grid of a range that holds 0, with an integer for its nearer end too.

    0 is an integer by need. The nearer end often is a number that many are, such as the background
    of images, and steps that are a hair longer make it one.
    """
    found = _between(low, high, qmin, qmax)
    nearer = min(-low, high)
    steps = math.floor(nearer / found.scale + 1e-6)
    if steps < _END_EXACT:
        return found
    return Grid(nearer / steps, qmin, qmax, qmin + steps if -low <= high else qmax - steps)


def _between(low: float, high: float, qmin: int, qmax: int) -> Grid:
    scale = max((high - low) / (qmax - qmin), SMALLEST)
    return Grid(scale, qmin, qmax, round(qmin - low / scale))


def sqnr(ranges: Ranges, number: int, grid: Grid) -> float:
    """Returns the signal-to-quantization-noise ratio of an activation on the calibration images.

    10 log10(variance / mean squared error), in dB; infinite for an activation that does not vary.
    The variance is about the mean, since a network can only tell images apart by what varies.

    Args:
      ranges: from `calibrate`. Its histogram gives the error of rounding and clipping; after the
        method "minmax", which counts none and clips nothing, it is taken as scale² / 12.
      number: of the activation.
      grid: its integers.

    Example:
      >>> import jax.numpy as jnp
      >>> from hcjax import calibrate, trace
      >>> x = jnp.linspace(1000.0, 1010.0, 512)[:, None]
      >>> model = trace(lambda p, x: x * p, jnp.ones(1), x)
      >>> ranges, (images,) = calibrate(model, x), model.graph.inputs
      >>> sqnr(ranges, images, Grid(*ranges.step(images, 8))) < 4
      True
    """
    variance = ranges.variance[number]
    low, high = ranges.low[number], ranges.high[number]
    width, counts, center = max(-low, high), ranges.counts[number], 0.0
    if not grid.qmin <= grid.zero <= grid.qmax:  # errors are those about the middle
        counts, center = ranges.centred[number], (low + high) / 2
        width = (high - low) / 2
    if not variance > 0 or not width > 0:
        return math.inf
    total = int(counts.sum())
    error = grid.scale**2 / 12
    if total:
        least, most = (grid.scale * (q - grid.zero) - center for q in (grid.qmin, grid.qmax))
        reach, step = max(-least, most) / width, grid.scale / width
        error = rounding_error(counts, reach, step) * width**2 / total
    return 10 * math.log10(variance / error) if error > 0 else math.inf
