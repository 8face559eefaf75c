"""The extremes, the mean and the variance of arrays, batch by batch, in one pass over each."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Moments(NamedTuple):
    """Of the numbers of an array; deviation: the sum of squared differences from the mean.

    infinite: whether infinities were left out.
    """

    low: Any
    high: Any
    mean: Any
    deviation: Any
    count: Any
    infinite: Any


def moments(x: jax.Array, *, holed: bool) -> Moments:
    """Returns the moments of a float32 array; an array without numbers has those of one 0.

    holed: whether infinities are to be left out; without, low or high is one, or NaN.
    """
    if not x.size:
        return Moments(0.0, 0.0, 0.0, 0.0, 0.0, False)
    if not holed:
        mean = x.mean()
        return Moments(x.min(), x.max(), mean, ((x - mean) ** 2).sum(), float(x.size), False)
    finite = ~jnp.isinf(x)
    count = finite.sum(dtype=jnp.float32)
    mean = jnp.where(finite, x, 0).sum() / jnp.maximum(count, 1)
    return Moments(
        jnp.where(finite, x, jnp.inf).min(),
        jnp.where(finite, x, -jnp.inf).max(),
        mean,
        (jnp.where(finite, x - mean, 0) ** 2).sum(),
        count,
        ~finite.all(),
    )


def merged(a: Moments, b: Moments) -> Moments:
    """Returns the moments of two arrays together, by Chan, Golub and LeVeque's formula."""
    count = a.count + b.count
    part, apart = b.count / max(count, 1.0), b.mean - a.mean
    return Moments(
        np.minimum(a.low, b.low),
        np.maximum(a.high, b.high),
        a.mean + apart * part,
        a.deviation + b.deviation + apart**2 * a.count * part,
        count,
        a.infinite or b.infinite,
    )
