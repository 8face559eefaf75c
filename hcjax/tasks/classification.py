"""Classification: one label for each example."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from hcjax import losses, metrics
from hcjax.errors import ConfigError
from hcjax.tasks.task import Task, first_of, lower


def _check(outputs: Any, classes: int) -> None:
    """Raises ConfigError unless outputs are logits of at least so many classes."""
    shape = getattr(first_of(outputs), "shape", None)
    if shape is None or len(shape) != 2 or shape[1] < classes:
        raise ConfigError(
            f"the network must give logits [N, {classes}] for the {classes} classes of the data, "
            f"it gives {list(shape) if shape is not None else type(outputs).__name__}"
        )


def _loss(outputs: Any, target: Any) -> jax.Array:
    return losses.cross_entropy(first_of(outputs), target)


def _each(outputs: Any, labels: jax.Array) -> dict[str, jax.Array]:
    log_p = jax.nn.log_softmax(first_of(outputs).astype(jnp.float32))
    return {
        "label": labels,
        "prediction": jnp.argmax(log_p, -1).astype(jnp.int32),
        "confidence": jnp.exp(jnp.max(log_p, -1)),
        "loss": -jnp.take_along_axis(log_p, labels[:, None], -1)[:, 0],
    }


classification = Task(
    "classification",
    loss=_loss,
    sums=lambda outputs, labels, weight: metrics.sums(first_of(outputs), labels, weight),
    eval_sums=lambda outputs, labels, mask: metrics.eval_sums(first_of(outputs), labels, mask),
    each=_each,
    summarize=metrics.summarize,
    monitors={"nll": lower("nll"), "accuracy": lower("error")},
    main="accuracy",
    best="accuracy",
    mean_loss="nll",
    shown=("nll", "accuracy", "ece"),
    check=_check,
    predict=lambda outputs: jnp.argmax(first_of(outputs), -1),
    losses=losses.LOSSES,
    teach="kl",
)
