"""The extremes, the mean and the variance of arrays, batch by batch, in one pass over each."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Moments(NamedTuple):
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


def moments(x: jax.Array) -> Moments:
    """Returns the moments of a float32 array; an array without numbers has those of one 0."""
    if not x.size:
        return Moments(0.0, 0.0, 0.0, 0.0, 0.0, False, False)
    finite = jnp.isfinite(x)
    count = finite.sum(dtype=jnp.float32)
    mean = jnp.where(finite, x, 0).sum() / jnp.maximum(count, 1)
    return Moments(
        jnp.where(finite, x, jnp.inf).min(),
        jnp.where(finite, x, -jnp.inf).max(),
        mean,
        (jnp.where(finite, x - mean, 0) ** 2).sum(),
        count,
        jnp.isinf(x).any(),
        jnp.isnan(x).any(),
    )


def merged(a: Moments, b: Moments) -> Moments:
    """Returns the moments of two arrays together, by Chan, Golub and LeVeque's formula."""
    count = a.count + b.count
    part, apart = b.count / max(count, 1.0), b.mean - a.mean
    return Moments(
        min(a.low, b.low),
        max(a.high, b.high),
        a.mean + apart * part,
        a.deviation + b.deviation + apart**2 * a.count * part,
        count,
        a.infinite or b.infinite,
        a.undefined or b.undefined,
    )
