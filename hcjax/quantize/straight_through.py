"""Straight-through estimators: values whose gradient is that of another, smooth expression."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

SMALLEST = float(np.finfo(np.float32).tiny)  # of a scale


@jax.custom_vjp
def guard_gradient(x: jax.Array) -> jax.Array:
    """Returns x; a gradient that is not finite becomes 0, e.g. that of sqrt(x) at 0.

    Example:
      >>> jax.grad(lambda x: jnp.sqrt(guard_gradient(x)))(0.0).item()
      0.0
    """
    return x


guard_gradient.defvjp(lambda x: (x, None), lambda _, g: (jnp.where(jnp.isfinite(g), g, 0),))


@jax.custom_vjp
def ste(value: jax.Array, smooth: jax.Array) -> jax.Array:
    """Returns the value with the gradient of another expression (straight-through estimator).

    Args:
      value: float32[...], the result.
      smooth: float32[...], the differentiable expression that the value rounds.

    Example:
      >>> jax.grad(lambda x: ste(jnp.round(x), 3.0 * x))(0.4).item()
      3.0
    """
    return value


def _ste_forward(value, smooth):
    return value, None


def _ste_backward(_, gradient):
    return jnp.zeros_like(gradient), gradient


ste.defvjp(_ste_forward, _ste_backward)


def learn_scale(scale: jax.Array, count: int, qmax: int) -> jax.Array:
    """Returns a scale > 0 whose gradient is multiplied by 1 / sqrt(count · qmax).

    Args:
      scale: float32[...], a parameter; LSQ calls it the step size.
      count: numbers that share one scale: weights, or features of one image.
      qmax: the greatest integer.

    Reference:
      Esser et al., "Learned Step Size Quantization", 2020, arXiv:1902.08153, section 2.2.

    Example:
      >>> jax.grad(lambda s: learn_scale(s, 25, 4))(0.5).item()
      0.10000000149011612
    """
    positive = jnp.maximum(jnp.abs(scale.astype(jnp.float32)), SMALLEST)
    return ste(positive, jnp.abs(scale) * float(1 / np.sqrt(count * qmax)))


def clip(x: jax.Array, low, high) -> jax.Array:
    """Clips x to [low, high], with a gradient of 1 at both limits too.

    Example:
      >>> jax.vmap(jax.grad(lambda x: clip(x, -1.0, 1.0)))(jnp.array([-2.0, 0.0, 1.0])).tolist()
      [0.0, 1.0, 1.0]
    """
    return jnp.where(x < low, low, jnp.where(x > high, high, x))
