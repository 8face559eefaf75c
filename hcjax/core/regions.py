"""`in_float`: a part of a network that stays one op, in float, whatever is done to the rest."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax

IN_FLOAT = "in_float"


def in_float(function: Callable[..., Any]) -> Callable[..., Any]:
    """Marks a function that integers hold badly: squares, their sums and logarithms, for instance.

    `trace` reads it as one op with a body. `fold` and `shrink` leave it as it is, `int8` leaves it
    in float and lists it in `.floats`. A file holds the body: what is computed there from nothing
    else, by `jnp.cos` of `jnp.arange` for instance, takes no room.

    Args:
      function: of arrays; it may close over others.

    Returns:
      The same function, compiled as one.

    Example:
      >>> import jax.numpy as jnp
      >>> import hcjax
      >>> def apply(params, x):
      ...     power = in_float(lambda x: jnp.log(x**2 + 1e-6))(x)
      ...     return power @ params["w"]
      >>> x = jnp.array([[1.0, 1e-2]])
      >>> model = hcjax.trace(apply, {"w": jnp.ones((2, 1))}, x)
      >>> [op.kind for op in model.graph.ops]
      ['cond', 'dot_general']
    """

    @functools.wraps(function)
    def in_float(*arguments):
        return function(*arguments)

    in_float.__name__ = IN_FLOAT
    return jax.jit(in_float)
