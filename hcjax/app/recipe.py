"""A config made into what `fit` takes: the one file that knows what the keys are called.

In: a config. Out: dataset, network, parameters, optimiser and loss as plain values.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from hcjax import data, losses, models, optim
from hcjax.config.reader import Reader
from hcjax.core import registry
from hcjax.devices import platform
from hcjax.errors import ConfigError
from hcjax.runs import warm_start
from hcjax.runs.workdir import network_of

# keys of the section `train` that count something, and the least that makes sense
COUNTS = {"batch_size": 1, "eval_every": 1, "eval_batch_size": 1, "patience": 1, "log_every": 1}
COUNTS |= {"checkpoint_every": 1, "keep": 1}
_OPTIONAL = ("eval_every", "patience", "ema_decay", "checkpoint_every")


class Optim(NamedTuple):
    """The sections `optim` and `schedule`.

    name: of the optimiser. learning_rate: the peak. accumulate_steps: batches of an update.
    clip_norm: largest norm of the gradient, or None. freeze: pattern of paths, or None. options:
    further keywords of the optimiser. schedule, schedule_options: name and keywords.
    """

    name: str
    learning_rate: float
    accumulate_steps: int
    clip_norm: float | None
    freeze: str | None
    options: dict[str, Any]
    schedule: str
    schedule_options: dict[str, Any]


class Recipe(NamedTuple):
    """A config made into what `fit` takes.

    dataset, network, params, state: as their names say. steps: in all. optim: options of
    the optimiser, for trainings of other lengths. fit: the other keyword arguments of `fit`.
    notes: lines that whoever started the run wants to read.
    """

    dataset: data.Dataset
    network: models.Network
    params: Any
    state: Any
    steps: int
    optim: Optim
    fit: dict
    notes: list[str]


def start_platform(reader: Reader):
    """Returns (cache folder or None, counter of its hits) after choosing where to compute."""
    platform.select(reader.get("platform"), deterministic=reader.get("deterministic"))
    base = reader.get("cache_dir")
    cache = None if base == "off" else platform.cache_folder(base or None)
    return cache, platform.use_cache(cache)


def build(reader: Reader, dataset: data.Dataset | None = None) -> Recipe:
    """Returns everything that a config describes, as plain values; reads every key.

    Args:
      reader: the config.
      dataset: stands for what the section `data` names, e.g. where only shapes are needed.
    """
    for key in ("platform", "deterministic", "cache_dir"):
        reader.get(key)  # read by start_platform
    stages, teacher = reader.get("stages"), reader.get("teacher")
    check("teacher", teacher, stages or not teacher, "'' where config.stages is empty")
    if not stages:  # then nothing else asks for them
        for key in ("loss", "weight", "temperature", "beside", "logits"):
            reader.section("distill").optional(key)
    seed, init_from = reader.get("seed"), reader.get("init_from")
    profile_steps = reader.get("profile_steps")
    check("seed", seed, 0 <= seed < 2**32, "in [0, 2**32)")
    check("profile_steps", profile_steps, profile_steps >= 0, ">= 0")
    if dataset is None:
        dataset, threads = dataset_of(reader, seed)
    else:
        reader.section("data").rest()
        threads = 0
    network_for = partial(network_of, model_of(reader.section("model")), dataset.image_shape)
    network = network_for(dataset.num_classes)
    init_key, fit_key = jax.random.split(jax.random.key(seed))
    params, state = jax.jit(network.init)(init_key)
    notes: list[str] = []
    if init_from:
        head = warm_start.head_of(network_for, dataset.num_classes)
        params, state, notes = warm_start.taken_over(
            init_from, params, state, head, dataset.class_names
        )

    train, batch_size, steps = train_of(reader.section("train"), dataset)
    chosen = optim_of(reader)
    tx = optimizer_of(chosen, steps)
    jax.eval_shape(tx.init, params)  # a pattern of `freeze` that matches nothing: now, not later
    loss, penalty, weights = loss_of(reader.section("loss"), dataset)
    fit = train | {
        "loss": loss,
        "tx": tx,
        "penalty": penalty,
        "class_weights": weights,
        "batch_size": batch_size,
        "augment": augment_of(reader.section("augment"), dataset),
        "accelerate": reader.get("accelerate"),
        "key": fit_key,
        "threads": threads,
        "profile_steps": profile_steps,
    }
    return Recipe(dataset, network, params, state, steps, chosen, fit, notes)


def model_of(section: Reader) -> dict[str, Any]:
    """Returns the section `model` as plain values."""
    return {k: section.get(k) for k in ("name", "dtype", "sync_batchnorm")} | section.rest()


def optim_of(reader: Reader) -> Optim:
    """Returns the sections `optim` and `schedule` as plain values."""
    optimizer, schedule = reader.section("optim"), reader.section("schedule")
    return Optim(
        accumulate_steps=optimizer.get("accumulate_steps"),
        learning_rate=optimizer.get("learning_rate"),
        schedule=schedule.get("name"),
        schedule_options=schedule.rest(),
        name=optimizer.get("name"),
        clip_norm=optimizer.optional("clip_norm"),
        freeze=optimizer.optional("freeze"),
        options=optimizer.rest(),
    )


def optimizer_of(
    chosen: Optim, steps: int, *, learning_rate: float | None = None
) -> optax.GradientTransformation:
    """Creates the optimiser of a training.

    Args:
      chosen: of `optim_of`.
      steps: batches in all.
      learning_rate: the peak; None for that of `chosen`.
    """
    rate = optim.schedule(
        chosen.schedule,
        learning_rate=chosen.learning_rate if learning_rate is None else learning_rate,
        steps=max(1, steps // max(1, chosen.accumulate_steps)),  # updates, not batches
        **chosen.schedule_options,
    )
    return optim.create(
        chosen.name,
        learning_rate=rate,
        accumulate_steps=chosen.accumulate_steps,
        clip_norm=chosen.clip_norm,
        freeze=chosen.freeze,
        **chosen.options,
    )


def train_of(section: Reader, dataset: data.Dataset) -> tuple[dict, int, int]:
    """Returns (keyword arguments of `fit` in the section `train`, batch size, steps in all)."""
    epochs, batch_size = section.get("epochs"), section.get("batch_size")
    keys = ("eval_every", "eval_batch_size", "patience", "monitor", "ema_decay", "log_every")
    keys += ("checkpoint_every", "keep")
    found = {k: section.optional(k) if k in _OPTIONAL else section.get(k) for k in keys}
    for key, least in COUNTS.items():
        value = batch_size if key == "batch_size" else found[key]
        check(f"train.{key}", value, value is None or value >= least, f">= {least}")
    return found, batch_size, steps_of("train.epochs", epochs, batch_size, dataset)


def steps_of(key: str, epochs: float, batch_size: int, dataset: data.Dataset) -> int:
    """Returns the steps of so many epochs; 0 of none, and ConfigError if others are none either."""
    check(key, epochs, math.isfinite(epochs) and epochs >= 0, ">= 0")
    count = len(dataset.train.labels)
    steps = round(epochs * count / batch_size)
    expected = f"enough for one step of {batch_size} of {count:,} images"
    check(key, epochs, steps >= 1 or epochs == 0, expected)
    return steps


def dataset_of(reader: Reader, seed: int) -> tuple[data.Dataset, int]:
    """Returns (dataset, reading threads) of the section `data`."""
    section = reader.section("data")
    threads, source = section.get("threads"), section.get("source")
    check("data.threads", threads, threads >= 0, ">= 0")
    given = section.rest()
    if source == "mnist" and "path" in given:
        raise ConfigError("config.data.path has no use: source mnist is packed with hcjax")
    if "://" not in given.get("path", "://"):
        given["path"] = str(Path(given["path"]).expanduser())
    return data.load(source, seed=seed, **given), threads


def loss_of(section: Reader, dataset: data.Dataset):
    """Returns (per-example loss, penalty of parameters or None, class weights or None)."""
    name, l1, l2, weighing = (section.get(k) for k in ("name", "l1", "l2", "class_weights"))
    loss = losses.create(name, **section.rest())
    check("loss.l1", l1, l1 >= 0, ">= 0")
    check("loss.l2", l2, l2 >= 0, ">= 0")
    check("loss.class_weights", weighing, weighing in ("", "balanced"), "'' or 'balanced'")
    penalty = None
    if l1 or l2:

        def penalty(params):
            return l1 * losses.l1(params) + l2 * losses.l2(params)

    counts = np.bincount(dataset.train.labels, minlength=dataset.num_classes)
    return loss, penalty, losses.class_weights(counts) if weighing else None


def augment_of(section: Reader, dataset: data.Dataset) -> list[tuple[str, dict]]:
    """Returns the (name, options) pairs of the augmentations in use, tried on the images' shape."""
    used = section.get("use")
    if isinstance(used, str):
        raise ConfigError(f"config.augment.use must be a tuple of names, e.g. ('{used}',)")
    for name in used:
        registry.choose("augmentation", data.AUGMENTATIONS, name)
    pairs = [(name, section.section(name).rest()) for name in used]
    facts = {"mean": dataset.mean, "std": dataset.std, "num_classes": dataset.num_classes}
    for pair in pairs:
        shapes = batch_shapes(2, dataset, augment=[pair])
        try:
            ready = data.make_prepare(**facts, augment=[pair])
            jax.eval_shape(ready, shapes, jax.random.key(0))
        except (TypeError, ValueError, IndexError) as error:  # e.g. one number instead of two
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f"augmentation {pair[0]} cannot use {pair[1]}: {error}") from error
    return pairs


def batch_shapes(size: int, dataset: data.Dataset, *, augment: Any = None) -> dict:
    """Returns the shapes of a global training batch, or without `augment` of an evaluation's."""
    image = jax.ShapeDtypeStruct((size, *dataset.image_shape), np.uint8)
    number = jax.ShapeDtypeStruct((size,), np.int32)
    batch = {"image": image, "label": number}
    if augment is None:
        return batch | {"mask": jax.ShapeDtypeStruct((size,), bool)}
    if data.needs_partners(augment):
        batch |= {"partner_image": image, "partner_label": number}
    return batch | {"position": number}


def check(key: str, value: Any, legal: bool, expected: str) -> None:
    """Raises ConfigError unless a key's value is legal.

    Args:
      key: its full name. value: what it holds. expected: what would be legal, in words.
    """
    if not legal:
        raise ConfigError(f"config.{key} must be {expected}, got {value!r}")
