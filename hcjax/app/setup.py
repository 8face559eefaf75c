"""What a recipe describes, made: dataset, network, parameters, optimiser, objective.

In: a `Recipe`. Out: a `Setup`, whose fields are what `fit` takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from hcjax import data, losses, models, optim, tasks, trees
from hcjax.attack import training
from hcjax.config.recipe import Data, Loss, Optim, Platform, Recipe, check
from hcjax.core import registry
from hcjax.data.dataset import are_labels
from hcjax.devices import platform
from hcjax.errors import ConfigError
from hcjax.runs import warm_start
from hcjax.runs.workdir import network_of
from hcjax.tasks import Task
from hcjax.train.objective import Every, Objective


class Frozen(NamedTuple):
    """What is not trained: how many arrays, the parameters in them, and a line that says so."""

    arrays: int
    parameters: int
    text: str


class Setup(NamedTuple):
    """What a training is made of.

    task: what it is for. dataset, network, params, state, objective, tx, key: as of `fit`. steps:
    in all. options: the other keyword arguments of `fit`, alike in every training of a run. notes:
    lines that whoever started the run wants to read. frozen: what `optim.freeze` keeps, or None.
    """

    task: Task
    dataset: data.Dataset
    network: models.Network
    params: Any
    state: Any
    objective: Objective
    tx: optax.GradientTransformation
    steps: int
    key: jax.Array
    options: dict[str, Any]
    notes: list[str]
    frozen: Frozen | None


def start_platform(where: Platform) -> tuple[Path | None, dict[str, int]]:
    """Chooses where to compute, before jax does; returns (cache folder, counter of its hits)."""
    platform.select(where.name, deterministic=where.deterministic)
    off = where.cache_dir == "off"
    cache = None if off else platform.cache_folder(where.cache_dir or None)
    return cache, platform.use_cache(cache)


def set_up(recipe: Recipe) -> Setup:
    """Loads the data, builds the network and makes everything else that a recipe describes.

    Args:
      recipe: of `stages.parse`.

    Raises:
      HcjaxError: if a part of the recipe cannot be made, naming its key or file.
    """
    dataset, task = load(recipe.data), tasks.get(recipe.task)
    network_for = partial(network_of, recipe.model, dataset.input_shape, about=dataset.about)
    network = network_for(dataset.num_outputs)
    init_key, fit_key = jax.random.split(jax.random.key(recipe.seed))
    params, state = jax.jit(network.init)(init_key)
    notes: list[str] = []
    if recipe.init_from:
        head = warm_start.head_of(network_for, dataset.num_outputs)
        params, state, notes = warm_start.taken_over(
            recipe.init_from, params, state, head, dataset.class_names
        )
    train = recipe.train
    steps = steps_of("train.epochs", train.epochs, train.batch_size, dataset)
    tx = optimizer_of(recipe.optim, steps)
    jax.eval_shape(tx.init, params)  # a pattern of `freeze` that matches nothing: now, not later
    frozen = frozen_of(recipe.optim, params)
    notes += [frozen.text] if frozen else []
    facts = {"mean": dataset.mean, "std": dataset.std, "num_classes": dataset.num_classes}
    options = {
        "batch_size": train.batch_size,
        "augment": augmentations_of(recipe.augment, *shapes_of(dataset), **facts),
        "ema_decay": train.ema_decay,
        "accelerate": recipe.accelerate,
        "every": Every(train.eval_every, train.checkpoint_every, train.log_every),
        "eval_batch_size": train.eval_batch_size,
        "patience": train.patience,
        "monitor": train.monitor,
        "keep": train.keep,
        "threads": recipe.data.threads,
        "profile_steps": recipe.profile_steps,
        "task": task,
    }
    return Setup(
        task=task,
        dataset=dataset,
        network=network,
        params=params,
        state=state,
        objective=objective_of(
            recipe.loss, task, counts_of(dataset), mean=dataset.mean, std=dataset.std
        ),
        tx=tx,
        steps=steps,
        key=fit_key,
        options=options,
        notes=notes,
        frozen=frozen,
    )


def frozen_of(optimizer: Optim, params: Any) -> Frozen | None:
    """Counts what the pattern `optim.freeze` keeps from being trained; None without a pattern.

    Args:
      optimizer: of a recipe. params: of the network that is trained.

    Raises:
      ConfigError: if the pattern matches no parameter.
    """
    if not optimizer.freeze:
        return None
    chosen = trees.select(params, optimizer.freeze)
    text = f"freeze {optimizer.freeze}: {trees.counted(params, chosen)} stay as they are"
    return Frozen(*trees.counts(params, chosen), text)


def load(source: Data) -> data.Dataset:
    """Loads the dataset that a section `data` names."""
    return data.load(source.source, seed=source.seed, **source.options)


def optimizer_of(
    optimizer: Optim, steps: int, *, learning_rate: float | None = None
) -> optax.GradientTransformation:
    """Creates the optimiser of a training.

    Args:
      optimizer: of a recipe.
      steps: batches in all.
      learning_rate: the peak; None for the recipe's.
    """
    rate = optim.schedule(
        optimizer.schedule,
        learning_rate=optimizer.learning_rate if learning_rate is None else learning_rate,
        steps=max(1, steps // max(1, optimizer.accumulate_steps)),  # updates, not batches
        **optimizer.schedule_options,
    )
    return optim.create(
        optimizer.name,
        learning_rate=rate,
        accumulate_steps=optimizer.accumulate_steps,
        clip_norm=optimizer.clip_norm,
        freeze=optimizer.freeze,
        **optimizer.options,
    )


def steps_of(key: str, epochs: float, batch_size: int, dataset: data.Dataset) -> int:
    """Returns the steps of so many epochs; 0 of none, and ConfigError if others are none either."""
    check(key, epochs, np.isfinite(epochs) and epochs >= 0, ">= 0")
    count = dataset.train.size
    steps = round(epochs * count / batch_size)
    what = "examples" if dataset.form == "arrays" else "images"
    expected = f"enough for one step of {batch_size} of {count:,} {what}"
    check(key, epochs, steps >= 1 or epochs == 0, expected)
    return steps


def counts_of(dataset: data.Dataset) -> np.ndarray | None:
    """Returns int[K], the training examples of each class; None where targets are no labels."""
    if dataset.form == "images" or not are_labels(dataset.train.targets):
        return None
    return np.bincount(dataset.train.targets, minlength=dataset.num_classes)


def objective_of(
    loss: Loss, task: Task, counts: np.ndarray | None, *, mean: Any = None, std: Any = None
) -> Objective:
    """Creates what a training minimises.

    Args:
      loss: of a recipe.
      task: whose losses it names, and whose own it is if it names none.
      counts: int[K], training examples of each class, by which classes may be weighted; None if
        targets are no classes.
      mean, std: float[C] of the images, which a loss on perturbed ones needs.

    Raises:
      ConfigError: if the task has no such loss, the loss no such option, or classes cannot be
        weighted.
    """
    if task is tasks.classification and loss.name in training.LOSSES:
        function = training.create(loss.name, loss.options, mean, std)
    elif task is tasks.classification:
        function = losses.create(loss.name or "cross_entropy", **loss.options)
    else:
        function = task.loss
        if loss.name is not None:
            function = registry.choose(f"loss of {task.name}", task.losses, loss.name)
        registry.check(f"the loss of {task.name}", function, loss.options)
        function = partial(function, **loss.options) if loss.options else function
    if loss.class_weights and counts is None:
        raise ConfigError(
            "config.loss.class_weights is of classes, and the targets of this data are none"
        )
    l1, l2, penalty = loss.l1, loss.l2, None
    if l1 or l2:

        def penalty(params):
            return l1 * losses.l1(params) + l2 * losses.l2(params)

    return Objective(
        function, penalty, losses.class_weights(counts) if loss.class_weights else None
    )


def augmentations_of(
    augmentations: Sequence[tuple[str, dict]], inputs: Any, targets: Any, **facts: Any
) -> list[tuple[str, dict]]:
    """Returns the augmentations of a recipe, tried on the shape of the images.

    Args:
      augmentations: of a recipe.
      inputs, targets: as of `batch_shapes`.
      **facts: mean, std and num_classes, as of `data.make_prepare`.
    """
    for name, _ in augmentations:
        registry.choose("augmentation", data.AUGMENTATIONS, name)
    for pair in augmentations:
        shapes = batch_shapes(2, inputs, targets, augment=[pair])
        try:
            prepare = data.make_prepare(**facts, augment=[pair])
            jax.eval_shape(prepare, shapes, jax.random.key(0))
        except (TypeError, ValueError, IndexError) as error:  # e.g. one number instead of two
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f"augmentation {pair[0]} cannot use {pair[1]}: {error}") from error
    return list(augmentations)


LABEL = jax.ShapeDtypeStruct((), np.int32)


def shapes_of(dataset: data.Dataset) -> tuple[Any, Any]:
    """Returns trees of the shapes and dtypes of one example's inputs and targets."""

    def one(x):
        return jax.ShapeDtypeStruct(tuple(x.shape[1:]), x.dtype)

    return tuple(jax.tree.map(one, tree) for tree in dataset.train)


def batch_shapes(size: int, inputs: Any, targets: Any, *, augment: Any = None) -> dict:
    """Returns the shapes of a global training batch, or without `augment` of an evaluation's.

    Args:
      size: examples. inputs, targets: trees of the shape and dtype of one's, e.g. of an image
        (H, W, C) and a label. augment: as of `make_prepare`.
    """

    def all_of(tree):
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct((size, *x.shape), x.dtype), tree)

    batch = {"inputs": all_of(inputs), "labels": all_of(targets)}
    if augment is None:
        return batch | {"mask": jax.ShapeDtypeStruct((size,), bool)}
    if data.needs_partners(augment):
        batch |= {"partner_inputs": batch["inputs"], "partner_labels": batch["labels"]}
    return batch | {"position": all_of(LABEL)}
