"""What the stages of a pipeline share, and how a config speaks of each layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from hcjax import data
from hcjax.errors import ConfigError
from hcjax.graph.model import Model
from hcjax.quantize.spec import check_pattern
from hcjax.tasks import Task


class Work(NamedTuple):
    """What the stages of a pipeline share.

    task: what its networks are for. dataset: to train and calibrate on. steps: epochs -> steps.
    tune: `(model, name, *, epochs, learning_rate, around, penalty) -> Model` trains a Model in the
    sub-folder `name`; `around` makes of its optimiser the one that prunes, or keeps zeros, which
    None does; `penalty` of parameters is added to the loss. learn: `(name, *, epochs,
    learning_rate, teacher)`, the same for the student, from scratch, taught by a Model in place of
    the network that the stages begin with. say: prints lines.
    """

    task: Task
    dataset: data.Dataset
    steps: Callable[[float], int]
    tune: Callable[..., Model]
    learn: Callable[..., Model]
    say: Callable[[str], None]


def normalised(dataset: data.Dataset, count: int, part: str = "train") -> Any:
    """Returns the first images, or other inputs, of a part as the network sees them."""
    some = jax.tree.map(lambda x: x[:count], getattr(dataset, part).inputs)
    if dataset.form == "arrays":
        return some
    return data.normalise(some, dataset.mean, dataset.std)


# name of each network that a stage makes, and how
Outputs = list[tuple[str, Callable[[Work, Model, Model], Model]]]


def by_layer(key: str, given: Sequence[str], number: type) -> dict[str, int | float]:
    """Returns pattern -> number from ("conv1=8", ".*=4").

    Args:
      key: of the config, for the message, e.g. "quantize.bits".
      given: texts PATTERN=NUMBER.
      number: int or float.

    Raises:
      ConfigError: if they are none, or a pattern is no regular expression.

    Example:
      >>> by_layer("quantize.bits", ("conv.*=8", ".*=4"), int)
      {'conv.*': 8, '.*': 4}
    """
    try:
        pairs = (each.rsplit("=", 1) for each in given)
        numbers = {pattern: number(n) for pattern, n in pairs}
    except (TypeError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"config.{key}: expected a list ('PATTERN=NUMBER', ...), got {given!r}"
        ) from error
    for pattern in numbers:
        check_pattern(f"config.{key}", pattern)
    return numbers


def one_of(section: str, **given: float | None) -> None:
    """Raises ConfigError unless one of these keys of a section is given.

    Example:
      >>> one_of("shrink", keep=0.5, macs=None)
    """
    if sum(value is not None for value in given.values()) != 1:
        raise ConfigError(f"config.{section}: give one of {', '.join(given)}, got {given}")


def check_idle(section: str, epochs: float, **training) -> None:
    """Raises ConfigError if options of a training are given where there is none.

    Args:
      section: of the config. epochs: of its training.
      training: option -> value; None where it is not given.

    Example:
      >>> check_idle("shrink", 0.0, learning_rate=None)
    """
    idle = [key for key, value in training.items() if value is not None and not epochs]
    if idle:
        raise ConfigError(
            f"config.{section}.{idle[0]} is of a training, and config.{section}.epochs is 0: set "
            f"epochs, or {idle[0]} to None for no training"
        )


def outputs(name: str, make: Callable[[Model], Model], **training) -> Outputs:
    """Returns a network by a function of the one before; and, with epochs, trained after that.

    Args:
      name: of the network; the second is NAME-trained.
      make: Model -> Model.
      training: epochs and learning_rate, as of `Work.tune`.
    """

    def tuned(work, start, before):
        return work.tune(before, f"{name}-trained", **training)

    first = [(name, lambda work, start, before: make(before))]
    return first + ([(f"{name}-trained", tuned)] if training["epochs"] else [])
