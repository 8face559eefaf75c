"""Stages: what is done to a trained network, one after another, each a function Model -> Models.

A stage takes a Model, what all stages share, and its options. It returns named functions, each of
which makes a Model; the last is what the next stage takes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np

from hcjax import data
from hcjax.errors import ConfigError
from hcjax.graph import Model, calibrate, fake_quantize, int8
from hcjax.transforms import prune
from hcjax.transforms.shrink import shrink
from hcjax.transforms.trim import trim

Made = list[tuple[str, Callable[[], Model]]]


class Work(NamedTuple):
    """What the stages of a pipeline share.

    dataset: to train and calibrate on. steps: epochs -> steps. tune: `(model, name, *, epochs,
    learning_rate, tail) -> Model` trains a Model, its zeros kept, in the sub-folder `name`; `tail`
    is what ends its chain of optimisers. learn: the same for the student, from scratch.
    """

    dataset: data.Dataset
    steps: Callable[[float], int]
    tune: Callable[..., Model]
    learn: Callable[..., Model]


def taught(
    model: Model,
    work: Work,
    *,
    epochs: float | None = None,
    learning_rate: float | None = None,
) -> Made:
    """Returns the student, trained on the labels and on the teacher's logits."""
    del model  # it is the teacher, or follows it: the student starts anew
    return [("student", partial(work.learn, epochs=epochs, learning_rate=learning_rate))]


def pruned(
    model: Model,
    work: Work,
    *,
    sparsity: float,
    scope: str = "global",
    ramp: float = 0.5,
    epochs: float = 0.0,
    learning_rate: float | None = None,
) -> Made:
    """Returns the network with the smallest weights gone: at once, or more and more in training."""
    steps = work.steps(epochs)
    if not steps:
        masks = prune.masks(model.params, sparsity=sparsity, scope=scope)
        return [("pruned", lambda: model.replace(params=prune.apply(masks, model.params)))]
    end = max(1, round(ramp * steps))
    tail = prune.gradual(sparsity, begin=0, end=end, every=max(1, end // 100), scope=scope)
    options = {"epochs": epochs, "learning_rate": learning_rate, "tail": tail}
    return [("pruned", partial(work.tune, model, "pruned", **options))]


def trimmed(model: Model, work: Work) -> Made:
    """Returns the network without the channels that pruning has emptied."""
    del work
    return [("trimmed", lambda: trim(model))]


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

    @cache
    def small():
        return shrink(model, keep=keep, macs=macs, round_to=round_to)

    def tuned():
        options = {"epochs": epochs, "learning_rate": learning_rate}
        return work.tune(small(), "shrunk-trained", **options)

    made = [("shrunk", small)]
    return [*made, ("shrunk-trained", tuned)] if epochs else made


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
    epochs: float = 0.0,
    learning_rate: float | None = None,
) -> Made:
    """Returns the network in integers: as it is; and, with epochs, after training in integers."""

    @cache
    def fake():
        ranges = calibrate(model, _prepared(work.dataset, images), method=method)
        widths = {"bits": _by_layer(bits), "activation_bits": _by_layer(activation_bits)}
        return fake_quantize(model, ranges, granularity=granularity, floats=floats, **widths)

    def tuned():
        name = "quantized-trained"
        return int8(work.tune(fake(), name, epochs=epochs, learning_rate=learning_rate))

    made = [("quantized", lambda: int8(fake()))]
    return [*made, ("quantized-trained", tuned)] if epochs else made


# name -> what the stage makes of a Model
STAGES: dict[str, Callable[..., Made]] = {
    "distill": taught,
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
