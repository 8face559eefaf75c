"""Stages: what is done to a trained network, one after another.

A stage takes its options, checks them, and returns named functions `(work, start, before) ->
Model`: of what all stages share, the Model that the stage begins with, and the one made before.
The last one's is what the next stage begins with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import optax

from hcjax import data, options
from hcjax.errors import ConfigError
from hcjax.graph import Model, calibrate, fake_quantize, int8
from hcjax.graph import entropy as bits_in
from hcjax.transforms import prune
from hcjax.transforms.pick import pick
from hcjax.transforms.sensitivity import sensitivity
from hcjax.transforms.shrink import shrink
from hcjax.transforms.trim import trim

CHOOSING = 5000  # validation images, at most, that layers' bits are chosen on


class Work(NamedTuple):
    """What the stages of a pipeline share.

    dataset: to train and calibrate on. steps: epochs -> steps. tune: `(model, name, *, epochs,
    learning_rate, around, penalty) -> Model` trains a Model in the sub-folder `name`; `around`
    makes of its optimiser the one that prunes, or keeps zeros, which None does; `penalty` of
    parameters is added to the loss. learn: `(name, *, epochs, learning_rate, teacher)`, the same
    for the student, from scratch, taught by a Model in place of the network that the stages begin
    with. say: prints lines.
    """

    dataset: data.Dataset
    steps: Callable[[float], int]
    tune: Callable[..., Model]
    learn: Callable[..., Model]
    say: Callable[[str], None]


# name of a network, and how it is made
Made = list[tuple[str, Callable[[Work, Model, Model], Model]]]


def distilled(
    *, generations: int = 1, epochs: float | None = None, learning_rate: float | None = None
) -> Made:
    """Returns the student, trained on the labels and on the teacher's logits; and its students."""
    if generations < 1:
        raise ConfigError(f"config.distill.generations must be >= 1, got {generations}")
    options = {"epochs": epochs, "learning_rate": learning_rate}

    def again(name):
        return lambda work, start, before: work.learn(name, teacher=before, **options)

    # it starts anew: what the stage begins with is its teacher, or follows it
    first = [("student", lambda work, start, before: work.learn("student", **options))]
    later = [f"student-{n}" for n in range(2, generations + 1)]
    return first + [(name, again(name)) for name in later]


def pruned(
    *,
    sparsity: float,
    method: str | None = None,
    scope: str = "global",
    ramp: float | None = None,
    epochs: float = 0.0,
    learning_rate: float | None = None,
) -> Made:
    """Returns the network with the smallest weights gone: at once, or more and more in training."""
    training = {"method": method, "ramp": ramp, "learning_rate": learning_rate}
    idle = [key for key, value in training.items() if value is not None and not epochs]
    if idle:
        raise ConfigError(
            f"config.prune.{idle[0]} is of a training, and config.prune.epochs is 0: set epochs, "
            f"or {idle[0]} to None to prune by magnitude, at once"
        )
    around = options.choose("method", METHODS, method or "gradual")
    ramp = 0.5 if ramp is None else ramp

    def make(work, start, before):
        steps = work.steps(epochs)
        if not steps:
            masks = prune.masks(before.params, sparsity=sparsity, scope=scope)
            return before.replace(params=prune.apply(masks, before.params))
        end = max(1, round(ramp * steps))
        schedule = {"sparsity": sparsity, "begin": 0, "end": end, "every": max(1, end // 100)}
        pruning = partial(around, scope=scope, **schedule)
        given = {"epochs": epochs, "learning_rate": learning_rate}
        return work.tune(before, "pruned", around=pruning, **given)

    return [("pruned", make)]


# name -> (optimiser, *, sparsity, begin, end, every, scope) -> optimiser that prunes
METHODS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "fisher": prune.fisher,
    "gradual": lambda tx, **schedule: optax.chain(tx, prune.gradual(**schedule)),
    "movement": prune.movement,
}


def trimmed() -> Made:
    """Returns the network without the channels that pruning has emptied."""
    return [("trimmed", lambda work, start, before: trim(before))]


def shrunk(
    *,
    keep: float | None = None,
    macs: float | None = None,
    round_to: int = 1,
    epochs: float = 0.0,
    learning_rate: float | None = None,
) -> Made:
    """Returns the network with whole channels gone; and, with epochs, trained after that."""
    options = {"epochs": epochs, "learning_rate": learning_rate}

    def cut(work, start, before):
        return shrink(before, keep=keep, macs=macs, round_to=round_to)

    def tuned(work, start, before):
        return work.tune(before, "shrunk-trained", **options)

    return [("shrunk", cut)] + ([("shrunk-trained", tuned)] if epochs else [])


def quantized(
    *,
    bits: Any = None,
    size: float | None = None,
    drop: float | None = None,
    activation_bits: Any = 8,
    input_bits: Any = 8,
    granularity: str = "channel",
    floats: str = "",
    method: str = "mse",
    images: int = 512,
    entropy: float = 0.0,
    epochs: float = 0.0,
    learning_rate: float | None = None,
) -> Made:
    """Returns the network in integers: as it is; and, with epochs, after training in integers."""
    budget = {"bits": bits, "size": size, "drop": drop}
    budget = {k: v for k, v in budget.items() if v is not None}
    if images < 1:
        raise ConfigError(f"config.quantize.images must be >= 1, to calibrate on, got {images}")
    if len(budget) > 1:
        raise ConfigError(f"config.quantize: give one of bits, size and drop, got {budget}")
    given = _by_layer(8 if bits is None else bits)
    others = {"activation_bits": _by_layer(activation_bits), "input_bits": _by_layer(input_bits)}
    made: list[Model] = []  # once, for both networks

    def fake(work, start):
        if not made:
            ranges = calibrate(start, _prepared(work.dataset, images), method=method)
            picks = size is not None or drop is not None
            chosen = _picked(start, work, size, drop) if picks else given
            options = {"bits": chosen, "granularity": granularity, "floats": floats, **others}
            made.append(fake_quantize(start, ranges, **options))
        return made[0]

    def tuned(work, start, before):
        model, options = fake(work, start), {"epochs": epochs, "learning_rate": learning_rate}
        if entropy:
            bits_of = bits_in(model)
            options["penalty"] = lambda params: entropy * bits_of(params)
        return int8(work.tune(model, "quantized-trained", **options))

    at_once = [("quantized", lambda work, start, before: int8(fake(work, start)))]
    return at_once + ([("quantized-trained", tuned)] if epochs else [])


# name -> stage
STAGES: dict[str, Callable[..., Made]] = {
    "distill": distilled,
    "prune": pruned,
    "trim": trimmed,
    "shrink": shrunk,
    "quantize": quantized,
}


def _prepared(dataset: data.Dataset, count: int, part: str = "train") -> np.ndarray:
    """Returns the first images of a part as the network sees them."""
    images = np.asarray(getattr(dataset, part).images[:count], np.float32) / 255
    return (images - dataset.mean) / dataset.std


def _picked(model: Model, work: Work, size: float | None, drop: float | None) -> dict[str, int]:
    """Returns the bits of each layer that make a size, or cost `drop` of accuracy at most."""
    if not len(work.dataset.validation.labels):
        raise ConfigError(
            "config.quantize: size and drop choose each layer's bits on validation images, and "
            "there are none: set config.data.validation, or config.quantize.bits"
        )
    labels = work.dataset.validation.labels[:CHOOSING]
    images = _prepared(work.dataset, CHOOSING, "validation")
    found = sensitivity(model, images, labels, against="bits")
    accuracy = None if drop is None else found.accuracy - drop
    try:
        picked = {k: int(n) for k, n in pick(found, size=size, accuracy=accuracy).items()}
    except ConfigError as error:
        raise ConfigError(f"config.quantize: {error}") from error
    work.say(f"{found}\nbits: {', '.join(f'{k} {n}' for k, n in picked.items())}")
    return picked


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
