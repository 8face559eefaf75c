"""What `fit` minimises, `Objective`, and how often it validates, saves and logs, `Every`.

In: groups, or their fields as keywords of `fit`. Out: both groups, complete.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hcjax.core import brief
from hcjax.errors import ConfigError, unknown_name


class Objective(NamedTuple):
    """What a training minimises: the mean loss of a batch, plus the penalty.

    loss: `(logits float32[N, K], target) -> float32[N]`, e.g. `losses.cross_entropy`; target is
    int32[N] labels, or float32[N, K] probabilities with mixup or cutmix.
    penalty: `params -> float32[]`, added to the mean loss.
    class_weights: float32[K], weights of the classes in that mean.
    teacher: `float32[N, H, W, C] -> logits` of the prepared images, or whatever the loss reads: its
    target is then (target, what the teacher returns), see `distill.taught` and `guided`.
    teacher_logits: file that caches the teacher logits for other runs with the same key, data,
    batches, augmentation and teacher, see `teaching.cached_logits`.
    """

    loss: Callable
    penalty: Callable | None = None
    class_weights: Any = None
    teacher: Callable | None = None
    teacher_logits: str | Path | None = None

    __repr__ = brief.record


class Every(NamedTuple):
    """Steps between two validations, two checkpoints and two lines of the metrics.

    eval: None for one epoch. checkpoint: None for `eval`; needs a workdir. log: >= 1; validations
    that are more frequent come in its place. A line is the mean over the steps since the last one.
    """

    eval: int | None = None
    checkpoint: int | None = None
    log: int = 50


_EVERY = {f"{name}_every": name for name in Every._fields}  # keyword of `fit` -> field


def grouped(
    objective: Objective | None, every: Every | None, keywords: Mapping[str, Any]
) -> tuple[Objective, Every]:
    """Completes both groups with the keywords that name their fields.

    Args:
      objective: None if the keywords hold its fields.
      every: None for the defaults.
      keywords: field of Objective, or eval_every, checkpoint_every, log_every -> value; they
        replace the fields of the groups.

    Raises:
      TypeError: if a keyword names no field, or there is no loss.
      ConfigError: if a group is of another type.

    Example:
      >>> objective, every = grouped(Objective(abs), None, {"penalty": sum, "eval_every": 10})
      >>> objective.loss is abs, objective.penalty is sum, every
      (True, True, Every(eval=10, checkpoint=None, log=50))
    """
    _check_names(keywords, (*Objective._fields, *_EVERY))
    _check_kind("every", every, Every)
    steps = {_EVERY[k]: v for k, v in keywords.items() if k in _EVERY}
    fields = {k: v for k, v in keywords.items() if k not in _EVERY}
    return complete(objective, fields), (every or Every())._replace(**steps)


def complete(objective: Objective | None, fields: Mapping[str, Any]) -> Objective:
    """Replaces fields of an objective.

    Args:
      objective: None if the fields hold all of it.
      fields: field of Objective -> value.

    Raises:
      TypeError: if Objective has no such field, or there is no loss.
      ConfigError: if the objective is of another type.

    Example:
      >>> complete(Objective(abs), {"penalty": sum}) == Objective(abs, sum)
      True
    """
    _check_names(fields, Objective._fields)
    _check_kind("objective", objective, Objective)
    if objective is not None:
        return objective._replace(**fields)
    if "loss" not in fields:
        raise TypeError("a loss is needed: loss=..., or an Objective")
    return Objective(**fields)


def _check_names(keywords: Iterable[str], legal: Sequence[str]) -> None:
    """Raises TypeError if a keyword is not legal, naming the nearest."""
    for name in keywords:
        if name not in legal:
            raise TypeError(unknown_name("argument", name, legal))


def _check_kind(name: str, value: Any, kind: type) -> None:
    if not isinstance(value, kind | None):
        raise ConfigError(f"{name} must be {kind.__name__}, got {type(value).__name__}")
