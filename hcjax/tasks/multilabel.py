"""Multi-label classification: each of K classes is there or not, for each example."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hcjax.errors import ConfigError
from hcjax.tasks.task import (
    Task,
    alike,
    described,
    examples,
    first_of,
    higher,
    lower,
    masked,
    total,
)


def binary_cross_entropy(outputs: Any, target: jax.Array) -> jax.Array:
    """Computes -Σ_k t_k log σ(z_k) + (1 - t_k) log(1 - σ(z_k)), divided by K, of each example.

    Args:
      outputs: logits z float[N, K], or a tuple of which they are the first.
      target: t, bool or numbers in [0, 1], [N, K].

    Returns:
      float32[N], nats.

    Raises:
      ConfigError: if the shapes differ.

    Example:
      >>> loss = binary_cross_entropy(jnp.zeros((1, 3)), jnp.array([[1, 0, 1]]))
      >>> round(float(loss[0]), 4)
      0.6931
    """
    z, t = alike(outputs, target)
    return optax.sigmoid_binary_cross_entropy(z, t).reshape(len(z), -1).mean(-1)


def _counts(outputs: Any, targets: jax.Array, weight: jax.Array) -> tuple[jax.Array, ...]:
    """Returns how often each class is found, missed, and said to be there but is not, [K] each."""
    z, t = alike(outputs, targets)
    said, there = z > 0, t > 0.5
    kinds = (said & there, ~said & there, said & ~there)
    return tuple(masked(kind.astype(jnp.float32), weight).sum(0) for kind in kinds)


def _sums(outputs: Any, targets: jax.Array, weight: jax.Array) -> dict[str, jax.Array]:
    found, missed, wrong = _counts(outputs, targets, weight)
    return {
        "count": weight.astype(jnp.float32).sum(),
        "nll": masked(binary_cross_entropy(outputs, targets), weight).sum(),
        "found": found.sum(),
        "missed": missed.sum(),
        "wrong": wrong.sum(),
    }


def _eval_sums(outputs: Any, targets: jax.Array, mask: jax.Array) -> dict[str, jax.Array]:
    names = ("found_each", "missed_each", "wrong_each")
    each = zip(names, _counts(outputs, targets, mask), strict=True)
    return _sums(outputs, targets, mask) | dict(each)


def _f1(found: Any, missed: Any, wrong: Any) -> float | None:
    either = 2 * float(found) + float(missed) + float(wrong)
    return 2 * float(found) / either if either else None


def _summarize(sums: Mapping[str, Any]) -> dict[str, Any]:
    """Returns nll, F1 = 2 found / (2 found + missed + wrong) of all decisions and of each class."""
    count = total(sums)
    scores = {"examples": examples(count), "nll": float(sums["nll"]) / count}
    scores["f1"] = _f1(sums["found"], sums["missed"], sums["wrong"]) or 0.0
    if "found_each" in sums:
        columns = (np.asarray(sums[f"{name}_each"]) for name in ("found", "missed", "wrong"))
        scores["per_class"] = [_f1(*row) for row in zip(*columns, strict=True)]
        known = [f1 for f1 in scores["per_class"] if f1 is not None]
        scores["macro_f1"] = sum(known) / max(len(known), 1)
    return scores


def _each(outputs: Any, targets: jax.Array) -> dict[str, jax.Array]:
    z, t = alike(outputs, targets)
    wrong = ((z > 0) != (t > 0.5)).reshape(len(z), -1).sum(-1)
    return {"loss": binary_cross_entropy(outputs, targets), "wrong": wrong}


def _check(outputs: Any, classes: int) -> None:
    shape = getattr(first_of(outputs), "shape", ())
    if len(shape) != 2 or (classes and shape[1] != classes):
        raise ConfigError(
            f"the network must give logits [N, {classes or 'K'}], one for each class, it gives "
            f"{described(first_of(outputs))}"
        )


multilabel = Task(
    "multi-label classification",
    loss=binary_cross_entropy,
    sums=_sums,
    eval_sums=_eval_sums,
    each=_each,
    summarize=_summarize,
    monitors={"nll": lower("nll"), "f1": higher("f1")},
    main="f1",
    best="f1",
    mean_loss="nll",
    shown=("nll", "f1", "macro_f1"),
    check=_check,
    predict=lambda outputs: first_of(outputs) > 0,
)
