"""What attacks maximise: losses of logits that grow as a network comes to err.

In: logits float[N, K] with labels int[N]. Out: float32[N] per example. Cross-entropy is another:
`losses.cross_entropy`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from hcjax.errors import ConfigError


def margin(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Computes max over j ≠ y of z_j - z_y: the example is misclassified where it is > 0.

    Args:
      logits: float[N, K]. labels: int[N].

    Returns:
      float32[N].

    Example:
      >>> margin(jnp.array([[3.0, 1.0, 2.0]]), jnp.array([0])).tolist()
      [-1.0]
    """
    logits = logits.astype(jnp.float32)
    own = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    return jnp.where(own, -jnp.inf, logits).max(-1) - at(logits, labels)


def dlr(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Computes the difference of logits ratio: margin / (z_1st - z_3rd).

    Unlike cross-entropy it does not vanish where a network is sure of itself, since shifting and
    scaling all logits leave it as it is.

    Args:
      logits: float[N, K], K >= 3. labels: int[N].

    Returns:
      float32[N].

    Raises:
      ConfigError: if there are fewer than 3 classes.

    Reference:
      Croce and Hein, 2020, arXiv:2003.01690, equation 6.

    Example:
      >>> dlr(jnp.array([[4.0, 3.0, 2.0]]), jnp.array([0])).tolist()
      [-0.5]
    """
    ordered = _ordered(logits, 3)
    return margin(logits, labels) / (ordered[:, 0] - ordered[:, 2] + 1e-12)


def targeted_dlr(logits: jax.Array, labels: jax.Array, target: jax.Array) -> jax.Array:
    """Computes (z_target - z_y) / (z_1st - (z_3rd + z_4th) / 2).

    Args:
      logits: float[N, K], K >= 4. labels: int[N]. target: int[N], other classes.

    Returns:
      float32[N].

    Raises:
      ConfigError: if there are fewer than 4 classes.

    Reference:
      Croce and Hein, 2020, arXiv:2003.01690, equation 7.

    Example:
      >>> targeted_dlr(jnp.array([[4.0, 3.0, 2.0, 2.0]]), jnp.array([0]), jnp.array([1])).tolist()
      [-0.5]
    """
    ordered = _ordered(logits, 4)
    below = (ordered[:, 2] + ordered[:, 3]) / 2
    difference = at(logits, target) - at(logits, labels)
    return difference.astype(jnp.float32) / (ordered[:, 0] - below + 1e-12)


def at(rows: jax.Array, columns: jax.Array) -> jax.Array:
    """Returns one entry of each row: rows[i, columns[i]]."""
    return jnp.take_along_axis(rows, columns[:, None], 1)[:, 0]


def target_of(logits: jax.Array, labels: jax.Array, rank: Any) -> jax.Array:
    """Returns the other class of each example that is the rank-th most probable.

    Args:
      logits: float[N, K]. labels: int[N]. rank: 0 for the nearest, up to K - 2.

    Returns:
      int[N].

    Example:
      >>> target_of(jnp.array([[3.0, 1.0, 2.0]]), jnp.array([0]), 0).tolist()
      [2]
    """
    own = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    others = jnp.argsort(-jnp.where(own, -jnp.inf, logits), -1)[:, :-1]
    return at(others, jnp.full(len(labels), jnp.clip(rank, 0, others.shape[1] - 1)))


def _ordered(logits: jax.Array, least: int) -> jax.Array:
    if logits.shape[-1] < least:
        raise ConfigError(
            f"this loss needs {least} classes or more, and the network has {logits.shape[-1]}: "
            "leave it out, cross-entropy and Square need two"
        )
    return jax.lax.top_k(logits.astype(jnp.float32), least)[0]
