"""Scores of a function on batches of examples, by the same sums as `evaluate`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from hcjax.tasks.task import Task


def counted(task: Task, apply: Callable) -> Callable:
    """Returns `(targets, mask bool[N], *arguments) -> (sums, each)`, to be compiled.

    Args:
      task: what is counted.
      apply: `*arguments -> outputs`.
    """

    def count(targets, mask, *arguments):
        outputs = apply(*arguments)
        kept = {} if task.whole is None else task.each(outputs, targets)
        return task.eval_sums(outputs, targets, mask), kept

    return count


def summary(
    task: Task, count: Callable, targets: Sequence[Any], masks: Sequence[np.ndarray]
) -> dict[str, Any]:
    """Returns the scores over all batches.

    Args:
      count: `(i, targets, mask) -> (sums, each)` of batch i, see `counted`.
      targets, masks: of every batch.
    """
    results = [count(i, *pair) for i, pair in enumerate(zip(targets, masks, strict=True))]
    sums: dict[str, Any] = {}
    for found, _ in jax.device_get(results):
        for name, value in found.items():
            wide = np.asarray(value, np.int64 if value.dtype.kind in "iub" else np.float64)
            sums[name] = sums.get(name, 0) + wide
    scores = task.summarize(sums)
    if task.whole is None:
        return scores
    each = [(kept, mask) for (_, kept), mask in zip(jax.device_get(results), masks, strict=True)]
    return scores | task.whole(_joined(each))


def _joined(each: Sequence[tuple[Mapping[str, Any], np.ndarray]]) -> dict[str, np.ndarray]:
    """Joins what is kept of the examples of several batches, without those of padding."""
    return {k: np.concatenate([kept[k][mask] for kept, mask in each]) for k in each[0][0]}


def batched(targets: Any, size: int, *, pad: bool = False) -> tuple[list[Any], list[np.ndarray]]:
    """Splits targets into batches, and returns them and their masks.

    Args:
      targets: tree of arrays [N, ...], N >= 1.
      size: of a batch; the last is smaller, or padded with zeros.
    """
    count = len(jax.tree.leaves(targets)[0])
    starts = range(0, count, size)
    sizes = [size if pad else min(size, count - i) for i in starts]
    parts = [_part(targets, *each) for each in zip(starts, sizes, strict=True)]
    return parts, [np.arange(i, i + n) < count for i, n in zip(starts, sizes, strict=True)]


def _part(targets: Any, start: int, size: int) -> Any:
    return jax.tree.map(lambda x: padded(x[start : start + size], size), targets)


def padded(x: np.ndarray, size: int) -> np.ndarray:
    """Pads an array [n, ...] with zeros to so many rows; one without axes stays."""
    return np.pad(x, [(0, size - len(x))] + [(0, 0)] * (x.ndim - 1)) if x.ndim else x
