"""Values with another's gradient: rounding trains as if it were not there (straight-through)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

SMALLEST = float(np.finfo(np.float32).tiny)  # of a step


@jax.custom_vjp
def finite(x: jax.Array) -> jax.Array:
    """Returns x; a gradient that is not finite ends here: that of sqrt(x) at 0 is none to follow.

    Example:
      >>> jax.grad(lambda x: jnp.sqrt(finite(x)))(0.0).item()
      0.0
    """
    return x


finite.defvjp(lambda x: (x, None), lambda _, g: (jnp.where(jnp.isfinite(g), g, 0),))


@jax.custom_vjp
def ste(value: jax.Array, smooth: jax.Array) -> jax.Array:
    """Returns the value; gradients go to the surrogate, as if it had been returned instead.

    Example:
      >>> jax.grad(lambda x: ste(jnp.round(x), 3.0 * x))(0.4).item()
      3.0
    """
    return value


def _ste_forward(value, surrogate):
    return value, None


def _ste_backward(_, gradient):
    return jnp.zeros_like(gradient), gradient


ste.defvjp(_ste_forward, _ste_backward)


def learned(step: jax.Array, count: int, most: int) -> jax.Array:
    """Returns a step size > 0 whose gradient is scaled by 1 / sqrt(count · most).

    Args:
      step: float32[...], a parameter.
      count: numbers that share one step: weights, or features of one image.
      most: the greatest integer.

    Reference:
      Esser et al., "Learned Step Size Quantization", 2020, arXiv:1902.08153, section 2.2.

    Example:
      >>> jax.grad(lambda s: learned(s, 25, 4))(0.5).item()
      0.10000000149011612
    """
    positive = jnp.maximum(jnp.abs(step.astype(jnp.float32)), SMALLEST)
    return ste(positive, jnp.abs(step) * float(1 / np.sqrt(count * most)))


def clipped(x: jax.Array, least, most) -> jax.Array:
    """Returns x clipped, whose gradient is 1 on the limits too.

    Example:
      >>> jax.vmap(jax.grad(lambda x: clipped(x, -1.0, 1.0)))(jnp.array([-2.0, 0.0, 1.0])).tolist()
      [0.0, 1.0, 1.0]
    """
    return jnp.where(x < least, least, jnp.where(x > most, most, x))
