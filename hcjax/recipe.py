"""A config made into what `fit` takes: the one file that knows what the keys are called.

In: a config. Out: dataset, network, parameters, optimiser and loss as plain values.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np

from hcjax import config as configs
from hcjax import data, losses, models, optim, trees
from hcjax import workdir as workdirs
from hcjax.errors import ConfigError
from hcjax.training import platform


class Recipe(NamedTuple):
    """A config made into what `fit` takes.

    dataset, network, params, state: as their names say. steps: in all. fit: the other keyword
    arguments of `fit`.
    """

    dataset: data.Dataset
    network: models.Network
    params: Any
    state: Any
    steps: int
    fit: dict


def start_platform(reader: configs.Reader):
    """Returns (cache folder or None, counter of its hits) after choosing where to compute."""
    platform.select(reader.get("platform"), deterministic=reader.get("deterministic"))
    base = reader.get("cache_dir")
    cache = None if base == "off" else platform.cache_folder(base or None)
    return cache, platform.use_cache(cache)


def build(reader: configs.Reader) -> Recipe:
    """Returns everything that a config describes, as plain values; reads every key."""
    for key in ("platform", "deterministic", "cache_dir"):
        reader.get(key)  # read by start_platform
    seed, init_from = reader.get("seed"), reader.get("init_from")
    dataset, threads = dataset_of(reader, seed)
    network = workdirs.network(reader, dataset.image_shape, dataset.num_classes)
    init_key, fit_key = jax.random.split(jax.random.key(seed))
    params, state = jax.jit(network.init)(init_key)
    if init_from:
        params, state = start_from(init_from, params, state)

    train = reader.section("train")
    batch_size = train.get("batch_size")
    steps = round(train.get("epochs") * len(dataset.train.labels) / max(1, batch_size))
    optimizer = reader.section("optim")
    accumulate, learning_rate = optimizer.get("accumulate_steps"), optimizer.get("learning_rate")
    schedule = reader.section("schedule")
    rate = optim.schedule(
        schedule.get("name"),
        learning_rate=learning_rate,
        steps=max(1, steps // max(1, accumulate)),
        **schedule.rest(),
    )
    tx = optim.create(
        optimizer.get("name"),
        learning_rate=rate,
        accumulate_steps=accumulate,
        clip_norm=optimizer.get("clip_norm"),
        freeze=optimizer.get("freeze"),
        **optimizer.rest(),
    )
    loss, penalty, weights = loss_of(reader.section("loss"), dataset)
    keys = ("eval_every", "eval_batch_size", "patience", "monitor", "ema_decay", "log_every")
    fit = {k: train.get(k) for k in (*keys, "checkpoint_every", "keep")} | {
        "loss": loss,
        "tx": tx,
        "penalty": penalty,
        "class_weights": weights,
        "batch_size": batch_size,
        "augment": augment_of(reader.section("augment")),
        "key": fit_key,
        "threads": threads,
        "profile_steps": reader.get("profile_steps"),
    }
    return Recipe(dataset, network, params, state, steps, fit)


def dataset_of(reader: configs.Reader, seed: int) -> tuple[data.Dataset, int]:
    """Returns (dataset, reading threads) of the section `data`."""
    section = reader.section("data")
    threads, source = section.get("threads"), section.get("source")
    return data.load(source, seed=seed, **section.rest()), threads


def loss_of(section: configs.Reader, dataset: data.Dataset):
    """Returns (per-example loss, penalty of parameters or None, class weights or None)."""
    name, l1, l2, weighing = (section.get(k) for k in ("name", "l1", "l2", "class_weights"))
    loss = losses.create(name, **section.rest())
    if l1 < 0 or l2 < 0:
        raise ConfigError(f"loss.l1 and loss.l2 must be >= 0, got {l1} and {l2}")
    if weighing not in ("", "balanced"):
        raise ConfigError(f"loss.class_weights must be '' or 'balanced', got {weighing!r}")
    penalty = None
    if l1 or l2:
        penalty = lambda params: l1 * losses.l1(params) + l2 * losses.l2(params)  # noqa: E731
    counts = np.bincount(dataset.train.labels, minlength=dataset.num_classes)
    return loss, penalty, losses.class_weights(counts) if weighing else None


def augment_of(section: configs.Reader) -> list[tuple[str, dict]]:
    """Returns the (name, options) pairs of the augmentations in use."""
    return [(name, section.section(name).rest()) for name in section.get("use")]


def start_from(workdir: str, params: Any, state: Any):
    """Returns (params, state) of a finished run; leaves of other shapes (a new head) stay new.

    Raises:
      ConfigError: if fewer than half of the parameters' leaves fit.
    """
    source = workdirs.load(workdir)
    theirs = dict(trees.paths({"params": source.params, "state": source.state}))
    ours = trees.paths({"params": params, "state": state})
    fits = [p in theirs and theirs[p].shape == leaf.shape for p, leaf in ours]
    if sum(fits) * 2 < len(fits):
        raise ConfigError(
            f"init_from={workdir} is another network: only {sum(fits)} of {len(fits)} arrays have "
            f"a counterpart of the same name and shape"
        )
    for (path, leaf), ok in zip(ours, fits, strict=True):
        if not ok:
            print(f"init_from: {path} {list(leaf.shape)} starts anew; the rest is taken over")
    leaves = [theirs[p] if ok else leaf for (p, leaf), ok in zip(ours, fits, strict=True)]
    tree = jax.tree.unflatten(jax.tree.structure({"params": params, "state": state}), leaves)
    return tree["params"], tree["state"]
