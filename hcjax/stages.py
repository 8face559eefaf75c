"""Stages: what is done to a trained network, one after another, each a function Model -> Models.

A stage takes a Model, what all stages share, and its options. It returns named functions, each of
which makes a Model of the one before it; the last is what the next stage takes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import optax

from hcjax import data, options
from hcjax.errors import ConfigError
from hcjax.graph import Model, calibrate, fake_quantize, int8
from hcjax.graph import entropy as bits_in
from hcjax.transforms import prune
from hcjax.transforms.shrink import shrink
from hcjax.transforms.trim import trim

Made = list[tuple[str, Callable[[Model], Model]]]


class Work(NamedTuple):
    """What the stages of a pipeline share.

    dataset: to train and calibrate on. steps: epochs -> steps. tune: `(model, name, *, epochs,
    learning_rate, around, penalty) -> Model` trains a Model in the sub-folder `name`; `around`
    makes of its optimiser the one that prunes, or keeps zeros, which None does; `penalty` of
    parameters is added to the loss. learn: `(name, *, epochs, learning_rate, teacher)`, the same
    for the student, from scratch, taught by a Model in place of the network that the stages begin
    with.
    """

    dataset: data.Dataset
    steps: Callable[[float], int]
    tune: Callable[..., Model]
    learn: Callable[..., Model]


def distilled(
    model: Model,
    work: Work,
    *,
    generations: int = 1,
    epochs: float | None = None,
    learning_rate: float | None = None,
) -> Made:
    """Returns the student, trained on the labels and on the teacher's logits; and its students."""
    del model  # it is the teacher, or follows it: the student starts anew
    if generations < 1:
        raise ConfigError(f"config.distill.generations must be >= 1, got {generations}")
    options = {"epochs": epochs, "learning_rate": learning_rate}

    def again(name):
        return lambda before: work.learn(name, teacher=before, **options)

    later = [f"student-{n}" for n in range(2, generations + 1)]
    return [
        ("student", lambda before: work.learn("student", **options)),
        *((name, again(name)) for name in later),
    ]


def pruned(
    model: Model,
    work: Work,
    *,
    sparsity: float,
    method: str = "gradual",
    scope: str = "global",
    ramp: float = 0.5,
    epochs: float = 0.0,
    learning_rate: float | None = None,
) -> Made:
    """Returns the network with the smallest weights gone: at once, or more and more in training."""
    del model
    steps = work.steps(epochs)
    if not steps:
        masks = partial(prune.masks, sparsity=sparsity, scope=scope)
        return [("pruned", lambda m: m.replace(params=prune.apply(masks(m.params), m.params)))]
    around = options.choose("method", METHODS, method)
    end = max(1, round(ramp * steps))
    schedule = {"sparsity": sparsity, "begin": 0, "end": end, "every": max(1, end // 100)}
    given = {"epochs": epochs, "learning_rate": learning_rate}
    given["around"] = lambda tx: around(tx, scope=scope, **schedule)
    return [("pruned", lambda m: work.tune(m, "pruned", **given))]


# name -> (optimiser, *, sparsity, begin, end, every, scope) -> optimiser that prunes
METHODS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "fisher": prune.fisher,
    "gradual": lambda tx, **schedule: optax.chain(tx, prune.gradual(**schedule)),
    "movement": prune.movement,
}


def trimmed(model: Model, work: Work) -> Made:
    """Returns the network without the channels that pruning has emptied."""
    del model, work
    return [("trimmed", trim)]


def shrunk(
    model: Model,
    work: Work,
    *,
    keep: float | None = None,
    macs: float | None = None,
    round_to: int = 1,
    epochs: float = 0.0,
    learning_rate: float | None = None,
) -> Made:
    """Returns the network with whole channels gone; and, with epochs, trained after that."""

    del model
    options = {"epochs": epochs, "learning_rate": learning_rate}
    made = [("shrunk", lambda m: shrink(m, keep=keep, macs=macs, round_to=round_to))]
    if epochs:
        made += [("shrunk-trained", lambda m: work.tune(m, "shrunk-trained", **options))]
    return made


def quantized(
    model: Model,
    work: Work,
    *,
    bits: Any = 8,
    activation_bits: Any = 8,
    granularity: str = "channel",
    floats: str = "",
    method: str = "mse",
    images: int = 512,
    entropy: float = 0.0,
    epochs: float = 0.0,
    learning_rate: float | None = None,
) -> Made:
    """Returns the network in integers: as it is; and, with epochs, after training in integers."""

    @cache
    def fake():
        ranges = calibrate(model, _prepared(work.dataset, images), method=method)
        widths = {"bits": _by_layer(bits), "activation_bits": _by_layer(activation_bits)}
        return fake_quantize(model, ranges, granularity=granularity, floats=floats, **widths)

    def tuned(_):
        start, options = fake(), {"epochs": epochs, "learning_rate": learning_rate}
        if entropy:
            bits_of = bits_in(start)
            options["penalty"] = lambda params: entropy * bits_of(params)
        return int8(work.tune(start, "quantized-trained", **options))

    made = [("quantized", lambda m: int8(fake()))]
    return [*made, ("quantized-trained", tuned)] if epochs else made


# name -> what the stage makes of a Model
STAGES: dict[str, Callable[..., Made]] = {
    "distill": distilled,
    "prune": pruned,
    "trim": trimmed,
    "shrink": shrunk,
    "quantize": quantized,
}


def _prepared(dataset: data.Dataset, count: int) -> np.ndarray:
    """Returns the first training images as the network sees them."""
    images = np.asarray(dataset.train.images[:count], np.float32) / 255
    return (images - dataset.mean) / dataset.std


def _by_layer(bits: int | Sequence[str]) -> int | Mapping[str, int]:
    """Returns bits, or those of each layer from ("conv1=8", ".*=4")."""
    if isinstance(bits, int):
        return bits
    try:
        return {pattern: int(n) for pattern, n in (each.rsplit("=", 1) for each in bits)}
    except (TypeError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"config.quantize: bits must be a number, or ('PATTERN=NUMBER', ...), got {bits!r}"
        ) from error
