"""Training of parameters in bfloat16 or float16: what adds up small numbers does so in float32.

A bfloat16 has 8 significant bits, a float16 11: a number that is 256 or 2048 times smaller than
the one it is added to vanishes, step after step.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class Float32State(NamedTuple):
    """The state of `in_float32` where some parameters are narrower.

    Attributes:
      params: float32 arrays like the parameters; float32[] for those that are wide already.
      inner: the state of the wrapped optimiser.
    """

    params: Any
    inner: Any


def is_narrow(leaf: Any) -> bool:
    """Returns whether an array holds floats of less than 32 bits.

    Example:
      >>> is_narrow(jnp.ones(2, jnp.bfloat16)), is_narrow(jnp.ones(2)), is_narrow(jnp.ones(2, int))
      (True, False, False)
    """
    dtype = jnp.result_type(leaf)
    return jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32


def widened(tree: Any) -> Any:
    """Converts floats of less than 32 bits to float32; other leaves stay the same objects.

    Example:
      >>> widened({"w": jnp.ones(2, jnp.float16)})["w"].dtype
      dtype('float32')
    """
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32) if is_narrow(x) else x, tree)


def in_float32(tx: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Wraps an optimiser so that it trains bfloat16 and float16 parameters in float32.

    The optimiser gets float32 gradients and a float32 copy of the parameters, which its state
    keeps; the parameters are that copy, rounded. Of float32 parameters it is the optimiser itself,
    with the same state.

    Args:
      tx: the optimiser.

    Returns:
      An optax transformation; `update` needs the parameters. Its updates are float32 numbers to be
      added by `optax.apply_updates`. A parameter that was changed otherwise since the last update
      is taken as it now is.

    Reference:
      Micikevicius et al., "Mixed Precision Training", 2017, arXiv:1710.03740, section 3.1.

    Example:
      >>> tx, params = in_float32(optax.sgd(0.001)), jnp.ones(1, jnp.bfloat16)
      >>> state = tx.init(params)
      >>> for _ in range(100):
      ...   updates, state = tx.update(jnp.ones(1, jnp.bfloat16), state, params)
      ...   params = optax.apply_updates(params, updates)
      >>> params.tolist(), round(float(state.params[0]), 4)
      ([0.8984375], 0.9)
    """
    tx = optax.with_extra_args_support(tx)

    def init(params):
        if not any(map(is_narrow, jax.tree.leaves(params))):
            return tx.init(params)
        copies = jax.tree.map(
            lambda p: p.astype(jnp.float32) if is_narrow(p) else jnp.zeros(()), params
        )
        return Float32State(copies, tx.init(widened(params)))

    def update(grads, state, params=None, **extra):
        if not isinstance(state, Float32State):
            return tx.update(grads, state, params, **extra)
        if params is None:
            raise ValueError(optax.NO_PARAMS_MSG)

        def current(copy, p):
            if not is_narrow(p):
                return p
            return jnp.where(copy.astype(p.dtype) == p, copy, p.astype(jnp.float32))

        wide = jax.tree.map(current, state.params, params)
        updates, inner = tx.update(widened(grads), state.inner, wide, **extra)
        new = optax.apply_updates(wide, updates)

        def rounded(update, new, p):
            if not is_narrow(p):
                return update
            return new.astype(p.dtype).astype(jnp.float32) - p.astype(jnp.float32)

        copies = jax.tree.map(
            lambda old, n, p: n if is_narrow(p) else old, state.params, new, params
        )
        return jax.tree.map(rounded, updates, new, params), Float32State(copies, inner)

    return optax.GradientTransformationExtraArgs(init, update)
