"""Augmentations of tokens, int32[L], as a table's text is: 0 behind its end, 1 for unknown ones."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from hcjax.data.augment.limits import check_range


def forget(key: jax.Array, tokens: jax.Array, *, rate: float = 0.1) -> jax.Array:
    """Makes each token unknown, 1, with a probability; what is behind the end of a text stays 0.

    A network that is trained further without dropout, e.g. in integers, so cannot learn its texts
    by rare words; a teacher sees the same text.

    Args:
      key: PRNG key.
      tokens: int32[...].
      rate: in [0, 1].

    Raises:
      ConfigError: if the rate is out of range.

    Example:
      >>> forget(jax.random.key(0), jnp.array([7, 5, 0]), rate=1.0).tolist()
      [1, 1, 0]
    """
    check_range("forget", "rate", rate, 0, 1)
    lost = jax.random.bernoulli(key, rate, tokens.shape) & (tokens > 0)
    return jnp.where(lost, 1, tokens)
