"""`Task`: what a network is trained and scored for, as pure functions of outputs and targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hcjax.errors import ConfigError, DataError


class Shown(NamedTuple):
    """Examples for pictures, those of the largest loss first.

    inputs: as the dataset has them, e.g. images uint8[n, H, W, C]. targets, predictions: of the
    task, `Task.predict` of the outputs. class_names: K names, or none.
    """

    inputs: Any
    targets: Any
    predictions: Any
    class_names: tuple[str, ...]


class Task(NamedTuple):
    """What a network is for.

    name: for people. loss: `(outputs, target) -> float32[N]`, which `fit` takes if it is given
    none; target is what the data says, or what an augmentation or a teacher made of it.
    sums: `(outputs, targets, weight float32[N]) -> {name: float32[]}`, weighted sums of a training
    step, "count" among them. eval_sums: `(outputs, targets, mask bool[N]) -> {name: array}`, sums
    over the examples of an evaluation; a masked example adds nothing, whatever its numbers.
    each: `(outputs, targets) -> {name: array [N]}`, what an evaluation keeps of each example.
    summarize: `sums of either kind -> {name: score}`, on the host, with "examples".
    monitors: score -> function of the summary, lower is better; the first is the default to stop
    early by. main: the score that progress and histories show. best: the score that compression is
    judged by, higher is better. mean_loss: that of its loss. shown: the scores of a line of the
    metrics. check: `(outputs, number of classes) -> None`, when a network is traced; raises
    ConfigError if the outputs are not the task's. predict: `outputs -> predictions`.
    whole: `arrays of "each" over all examples -> scores` that no sum gives, e.g. recall; or None.
    losses: name -> function as `loss`, of which a config may name another one. teach: how a
    teacher's outputs teach where nothing else is said, a key of `distill.TEACH`. pictures: `Shown
    -> {name: figure}` of examples that a trained network is bad at; or None.
    """

    name: str
    loss: Callable[[Any, Any], jax.Array]
    sums: Callable[[Any, Any, jax.Array], dict[str, jax.Array]]
    eval_sums: Callable[[Any, Any, jax.Array], dict[str, jax.Array]]
    each: Callable[[Any, Any], dict[str, jax.Array]]
    summarize: Callable[[Mapping[str, Any]], dict[str, Any]]
    monitors: Mapping[str, Callable[[Mapping[str, Any]], float]]
    main: str
    best: str
    mean_loss: str
    shown: tuple[str, ...]
    check: Callable[[Any, int], None]
    predict: Callable[[Any], Any]
    whole: Callable[[Mapping[str, np.ndarray]], dict[str, Any]] | None = None
    losses: Mapping[str, Callable[[Any, Any], jax.Array]] = MappingProxyType({})
    teach: str = "squared"
    pictures: Callable[[Shown], dict[str, Any]] | None = None

    def __repr__(self) -> str:
        return f"Task {self.name}: {', '.join(self.shown)}"


def lower(score: str) -> Callable[[Mapping[str, Any]], float]:
    """Returns the monitor of a score of which less is better.

    Example:
      >>> lower("loss")({"loss": 0.5}), higher("accuracy")({"accuracy": 0.75})
      (0.5, 0.25)
    """
    return lambda summary: summary[score]


def higher(score: str) -> Callable[[Mapping[str, Any]], float]:
    """Returns the monitor, 1 - score, of a score of which more is better."""
    return lambda summary: 1 - summary[score]


def masked(x: jax.Array, weight: jax.Array) -> jax.Array:
    """Weights numbers by example: weight · x, and 0 where the weight is 0, even if x is NaN.

    Args:
      x: [N, ...]. weight: [N].
    """
    weight = weight.astype(jnp.float32).reshape(-1, *[1] * (x.ndim - 1))
    return jnp.where(weight != 0, weight * x, 0)


def first_of(outputs: Any) -> Any:
    """Returns the outputs that a task scores: the first of a tuple, or all of them.

    Args:
      outputs: a network's; of a tuple the others are for a loss, e.g. activations.
    """
    return outputs[0] if isinstance(outputs, tuple) else outputs


def alike(outputs: Any, targets: Any) -> tuple[jax.Array, jax.Array]:
    """Returns float32 arrays of outputs and targets of one shape.

    Raises:
      ConfigError: if they are not arrays of one shape.
    """
    outputs = first_of(outputs)
    shapes = [getattr(x, "shape", None) for x in (outputs, targets)]
    if shapes[0] != shapes[1] or shapes[0] is None:
        raise ConfigError(
            f"outputs and targets must be arrays of one shape, got {described(outputs)} and "
            f"{described(targets)}"
        )
    return outputs.astype(jnp.float32), targets.astype(jnp.float32)


def described(tree: Any) -> str:
    """Formats the shapes of a tree of arrays, for messages."""
    shapes = jax.tree.map(lambda x: f"{x.dtype}{list(np.shape(x))}", tree)
    return shapes if isinstance(shapes, str) else str(shapes)


def total(sums: Mapping[str, Any]) -> float:
    """Returns how many examples sums are of.

    Raises:
      ValueError: if it is none.
    """
    count = float(sums["count"])
    if not count > 0:
        raise ValueError(f"no example was counted (count {count}); there is nothing to average")
    return count


def none_beyond(sums: Mapping[str, Any]) -> None:
    """Raises DataError if sums have counted targets, "beyond", of classes that no output is of."""
    if count := float(sums["beyond"]):
        raise DataError(
            f"{count:,.0f} targets are of classes that the network has no output for: number the "
            "classes 0..K-1, or give it more outputs"
        )


def examples(count: float) -> int | float:
    """Returns a count as an int where it is whole."""
    return int(count) if count == int(count) else count


def any_outputs(outputs: Any, classes: int) -> None:
    """Accepts any outputs: shapes are compared with those of the targets."""
