"""Regression: numbers of any shape for each example, e.g. a price, or the depth of every pixel."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hcjax.tasks import pictures
from hcjax.tasks.task import (
    Task,
    alike,
    any_outputs,
    examples,
    first_of,
    higher,
    lower,
    masked,
    total,
)


def squared_error(outputs: Any, target: jax.Array) -> jax.Array:
    """Computes the mean squared error of each example.

    Args:
      outputs: float[N, ...], or a tuple of which it is the first. target: of the same shape.

    Returns:
      float32[N].

    Raises:
      ConfigError: if the shapes differ.

    Example:
      >>> squared_error(jnp.array([[1.0, 3.0]]), jnp.array([[0.0, 0.0]])).tolist()
      [5.0]
    """
    y, t = alike(outputs, target)
    return _mean(jnp.square(y - t))


def huber(outputs: Any, target: jax.Array, *, delta: float = 1.0) -> jax.Array:
    """Computes the mean of Huber's loss, e² / 2 up to |e| = δ and δ (|e| - δ / 2) beyond.

    Args:
      outputs: float[N, ...], or a tuple of which it is the first. target: of the same shape.
      delta: δ > 0, in units of the target.

    Returns:
      float32[N].

    Reference:
      Huber, "Robust Estimation of a Location Parameter", 1964.

    Example:
      >>> huber(jnp.array([[1.0], [3.0]]), jnp.zeros((2, 1))).tolist()
      [0.5, 2.5]
    """
    y, t = alike(outputs, target)
    e = jnp.abs(y - t)
    return _mean(jnp.where(e <= delta, e**2 / 2, delta * (e - delta / 2)))


def _mean(x: jax.Array) -> jax.Array:
    return x.reshape(x.shape[0], -1).mean(-1)


def _sums(outputs: Any, targets: jax.Array, weight: jax.Array) -> dict[str, jax.Array]:
    y, t = alike(outputs, targets)
    e = y - t
    return {
        "count": weight.astype(jnp.float32).sum(),
        "squared": masked(_mean(e**2), weight).sum(),
        "absolute": masked(_mean(jnp.abs(e)), weight).sum(),
    }


def _summarize(sums: Mapping[str, Any]) -> dict[str, Any]:
    """Returns mse, rmse and mae."""
    count = total(sums)
    mse = float(sums["squared"]) / count
    scores = {"examples": examples(count), "mse": mse, "rmse": mse**0.5}
    scores["mae"] = float(sums["absolute"]) / count
    return scores


def _each(outputs: Any, targets: jax.Array) -> dict[str, jax.Array]:
    y, t = alike(outputs, targets)
    return {"loss": _mean((y - t) ** 2), "absolute": _mean(jnp.abs(y - t)), "target": t}


def r_squared(each: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Returns R² = 1 - mean squared error / variance of the targets about their means.

    Args:
      each: arrays of all examples: "loss" float[N], squared errors, and "target" float[N, ...].

    Returns:
      {"r2"}; of targets that do not vary 1 without an error, else 0.

    Example:
      >>> r_squared({"loss": np.array([1.0, 1.0]), "target": np.array([1e6, 1e6 + 4])})
      {'r2': 0.75}
    """
    target = np.asarray(each["target"], np.float64)
    error, spread = np.mean(each["loss"], dtype=np.float64), target.var(0).mean()
    return {"r2": float(1 - error / spread) if spread > 0 else float(error == 0)}


regression = Task(
    "regression",
    loss=squared_error,
    sums=_sums,
    eval_sums=_sums,
    each=_each,
    summarize=_summarize,
    whole=r_squared,
    monitors={"mse": lower("mse"), "mae": lower("mae"), "r2": higher("r2")},
    main="mae",
    best="r2",
    mean_loss="mse",
    shown=("mse", "mae", "r2"),
    check=any_outputs,
    predict=first_of,
    losses={"squared_error": squared_error, "huber": huber},
    pictures=pictures.numbers,
)
robust_regression = regression._replace(name="robust regression", loss=partial(huber, delta=1.0))
