"""The training and the evaluation step, assembled once: `fit` runs them, `--plan` compiles them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import optax

from hcjax.data import prepare
from hcjax.errors import ConfigError
from hcjax.tasks import Task, classification
from hcjax.train import evaluation, parallel, step, teaching
from hcjax.train.objective import Objective, complete


def make_steps(
    apply: Callable,
    objective: Objective | None = None,
    *,
    tx: optax.GradientTransformation,
    mean: Any,
    std: Any,
    num_classes: int,
    augment: Sequence[tuple[str, dict]] = (),
    ema_decay: float | None = None,
    task: Task = classification,
    **fields: Any,
) -> tuple[Callable, Callable]:
    """Assembles (train step, evaluation step) over all devices, pure and not yet mapped.

    Args:
      apply: `(params, state, images, *, train, key) -> (logits, state)`.
      mean, std: float32[C], where a pixel is 0..1. num_classes: K.
      objective, **fields: what is minimised, see `Objective`; or its fields as keywords.
      tx, augment, ema_decay, task: see `fit`.

    Raises:
      ConfigError: if there is not one class weight for each class.

    Returns:
      What `parallel.train` and `parallel.evaluate` take; see `make_train_step` and
      `make_eval_step`.
    """
    objective = complete(objective, {"loss": task.loss} | fields if objective is None else fields)
    weights = objective.class_weights
    if weights is not None and np.shape(weights) != (num_classes,):
        raise ConfigError(
            f"class_weights must be one for each of the {num_classes} classes, got "
            f"{list(np.shape(weights))}"
        )
    apply = evaluation.checked(apply, task, num_classes)
    teacher = objective.teacher
    facts = {"mean": mean, "std": std, "num_classes": num_classes}
    ready = prepare.make_prepare(**facts)
    prepared = prepare.make_prepare(**facts, augment=augment)
    train_step = step.make_train_step(
        step.make_loss_fn(
            apply,
            objective.loss,
            penalty=objective.penalty,
            class_weights=objective.class_weights,
            task=task,
        ),
        tx,
        prepare=prepared if teacher is None else teaching.with_teacher(prepared, teacher),
        ema_decay=ema_decay,
        devices=parallel.DEVICES,
    )
    eval_step = evaluation.make_eval_step(apply, prepare=ready, devices=parallel.DEVICES, task=task)
    return train_step, eval_step
