"""The set that an attack searches: inputs near an example, by the L∞ or L2 norm, within 0..1.

In: batches float[N, ...]. Out: norms float[N], directions, and points moved back into the set.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from hcjax.errors import ConfigError, unknown_name

NORMS = ("linf", "l2")


def check(eps: float, norm: str) -> None:
    """Raises ConfigError unless the radius is finite and >= 0 and the norm is one of `NORMS`."""
    if norm not in NORMS:
        raise ConfigError(unknown_name("norm", str(norm), NORMS))
    if not isinstance(eps, jax.core.Tracer) and not (math.isfinite(eps) and eps >= 0):
        raise ConfigError(f"eps must be finite and >= 0, where a pixel is 0..1, got {eps}")


def size(delta: jax.Array, norm: str) -> jax.Array:
    """Computes the norm of each example's perturbation.

    Args:
      delta: float[N, ...].
      norm: "linf", max |d|, or "l2", sqrt(sum d^2).

    Returns:
      float[N].

    Example:
      >>> delta = jnp.array([[3.0, -4.0]])
      >>> size(delta, "l2").tolist(), size(delta, "linf").tolist()
      ([5.0], [4.0])
    """
    flat = delta.reshape(len(delta), -1)
    return jnp.abs(flat).max(-1) if norm == "linf" else jnp.sqrt(jnp.square(flat).sum(-1))


def like(each: jax.Array, x: jax.Array) -> jax.Array:
    """Reshapes one number an example, [N], so that it multiplies x [N, ...]."""
    return each.reshape(-1, *(1,) * (x.ndim - 1))


def ascent(gradient: jax.Array, norm: str) -> jax.Array:
    """Computes the direction of steepest ascent, of norm 1: sign(g) or g / |g|.

    Args:
      gradient: float[N, ...]; where it is 0, so is the direction.
      norm: as of `size`.

    Returns:
      float[N, ...].

    Example:
      >>> ascent(jnp.array([[3.0, -4.0]]), "l2").round(1).tolist()
      [[0.6000000238418579, -0.800000011920929]]
    """
    if norm == "linf":
        return jnp.sign(gradient)
    # by the largest entry first: the square of a vanishing gradient would underflow
    scaled = gradient / like(jnp.maximum(size(gradient, "linf"), 1e-30), gradient)
    return scaled / like(jnp.maximum(size(scaled, "l2"), 1e-12), gradient)


def project(points: jax.Array, centre: jax.Array, eps: float, norm: str) -> jax.Array:
    """Moves points into the ball around their example, and then into 0..1.

    Args:
      points: float[N, ...].
      centre: float[N, ...] in 0..1, the examples.
      eps: radius. norm: as of `size`.

    Returns:
      float[N, ...]. For "linf" it is the nearest point of the intersection; for "l2", scaled and
      then clipped, a point of it.

    Example:
      >>> project(jnp.array([[0.9, -0.9]]), jnp.array([[0.5, 0.0]]), 0.25, "linf").tolist()
      [[0.75, 0.0]]
    """
    delta = points - centre
    if norm == "linf":
        delta = jnp.clip(delta, -eps, eps)
    else:
        delta = delta * like(jnp.minimum(1.0, eps / jnp.maximum(size(delta, "l2"), 1e-12)), delta)
    return jnp.clip(centre + delta, 0.0, 1.0)


def draw(key: jax.Array, centre: jax.Array, eps: float, norm: str) -> jax.Array:
    """Draws a point of each example's ball, within 0..1: uniform in it before it is clipped.

    Args:
      key: PRNG key. centre, eps, norm: as of `project`.

    Example:
      >>> x = jnp.full((2, 3), 0.5)
      >>> bool((size(draw(jax.random.key(0), x, 0.1, "l2") - x, "l2") <= 0.1 + 1e-6).all())
      True
    """
    if norm == "linf":
        delta = jax.random.uniform(key, centre.shape, centre.dtype, -1.0, 1.0)
    else:
        one, two = jax.random.split(key)
        dimension = math.prod(centre.shape[1:])
        radius = jax.random.uniform(two, centre.shape[:1], centre.dtype) ** (1 / dimension)
        direction = ascent(jax.random.normal(one, centre.shape, centre.dtype), "l2")
        delta = direction * like(radius, centre)
    return project(centre + eps * delta, centre, eps, norm)
