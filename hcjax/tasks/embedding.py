"""Embeddings: vectors that are near for examples of one class, also of classes never seen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hcjax.errors import ConfigError
from hcjax.tasks.task import Task, described, examples, first_of, higher, lower, masked, total

RANKS = (1, 5)  # of recall
_CHUNK = 1024  # queries at a time


def nt_xent(outputs: Any, target: jax.Array, *, temperature: float = 0.1) -> jax.Array:
    """Computes the normalized temperature-scaled cross-entropy of each example of a batch.

    With s(i, j) the cosine of two embeddings divided by the temperature, the loss of example i is
    the mean over the others j of its class of -log(exp s(i, j) / Σ_{k ≠ i} exp s(i, k)); 0 for one
    without another of its class in the batch.

    Args:
      outputs: float[N, D], or a tuple of which it is the first. target: int[N], classes.
      temperature: > 0.

    Returns:
      float32[N], nats. Over several devices an example is compared with those of its own device.

    Reference:
      Chen et al., "SimCLR", 2020, arXiv:2002.05709, eq. 1; the mean over positives: Khosla et al.,
      "Supervised Contrastive Learning", 2020, arXiv:2004.11362, eq. 2.

    Example:
      >>> near = nt_xent(jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), jnp.array([0, 0, 1]))
      >>> abs(near).round(3).tolist()
      [0.0, 0.0, 0.0]
    """
    return _nt_xent(outputs, target, temperature, True)


def _nt_xent(outputs: Any, target: jax.Array, temperature: float, counts: Any) -> jax.Array:
    """Computes `nt_xent` among the examples that count, bool[N]."""
    z, labels = _vectors(outputs, target)
    others = ~jnp.eye(len(z), dtype=bool) & counts
    log_p = jax.nn.log_softmax(jnp.where(others, z @ z.T / temperature, -1e9))
    same = (labels[:, None] == labels) & others
    return -jnp.where(same, log_p, 0).sum(-1) / jnp.maximum(same.sum(-1), 1)


def triplet(outputs: Any, target: jax.Array, *, margin: float = 0.2) -> jax.Array:
    """Computes max(0, farthest of the class - nearest of the others + margin) of each example.

    Args:
      outputs: float[N, D], or a tuple of which it is the first. target: int[N], classes.
      margin: >= 0, of distances between vectors of length 1, which are in [0, 2].

    Returns:
      float32[N]; 0 for an example without another of its class, or of others, in the batch.

    Reference:
      Hermans et al., "In Defense of the Triplet Loss", 2017, arXiv:1703.07737, eq. 5: batch hard.

    Example:
      >>> triplet(jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]), jnp.array([0, 0, 1])).round(1)
      Array([1.6, 0.2, 0. ], dtype=float32)
    """
    z, labels = _vectors(outputs, target)
    square = jnp.maximum(2 - 2 * z @ z.T, 0)
    distance = jnp.sqrt(jnp.where(square > 0, square, 1)) * (square > 0)
    same = labels[:, None] == labels
    others = same & ~jnp.eye(len(z), dtype=bool)
    far = jnp.where(others, distance, -jnp.inf).max(-1)
    near = jnp.where(~same, distance, jnp.inf).min(-1)
    valid = others.any(-1) & (~same).any(-1)
    return jnp.where(valid, jnp.maximum(jnp.where(valid, far - near, 0) + margin, 0), 0)


def recall(each: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Returns recall@k: how many examples have one of their class among the k nearest others.

    Args:
      each: arrays of all examples: "embedding" float[N, D] of length 1, "label" int[N].

    Example:
      >>> z = np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
      >>> recall({"embedding": z, "label": np.array([0, 0, 1])})["recall_at_1"].__round__(3)
      0.667
    """
    z, labels = np.asarray(each["embedding"], np.float32), np.asarray(each["label"])
    found = dict.fromkeys(RANKS, 0)
    for start in range(0, len(z), _CHUNK):
        part = slice(start, start + _CHUNK)
        near = z[part] @ z.T
        rows = np.arange(len(near))
        near[rows, rows + start] = -np.inf
        most = min(max(RANKS), near.shape[1] - 1)
        index = np.argpartition(-near, most - 1, axis=1)[:, :most] if most else near[:, :0]
        closest = np.argsort(-np.take_along_axis(near, index, 1), axis=1, kind="stable")
        index = np.take_along_axis(index.astype(np.int64), closest, 1)
        hits = labels[index] == labels[part, None]
        for k in RANKS:
            found[k] += int(hits[:, :k].any(1).sum())
    return {f"recall_at_{k}": hits / max(len(z), 1) for k, hits in found.items()}


def _vectors(outputs: Any, target: Any) -> tuple[jax.Array, jax.Array]:
    z = first_of(outputs)
    if getattr(z, "ndim", 0) != 2 or getattr(target, "shape", None) != z.shape[:1]:
        raise ConfigError(
            f"embeddings need outputs [N, D] and labels [N], got {described(z)} and "
            f"{described(target)}"
        )
    z = z.astype(jnp.float32)
    length = jnp.sqrt(jnp.maximum(jnp.square(z).sum(-1, keepdims=True), 1e-12))
    return z / length, target


def _sums(outputs: Any, labels: jax.Array, weight: jax.Array) -> dict[str, jax.Array]:
    loss = masked(_nt_xent(outputs, labels, 0.1, weight != 0), weight).sum()
    return {"count": weight.astype(jnp.float32).sum(), "nt_xent": loss}


def _summarize(sums: Mapping[str, Any]) -> dict[str, Any]:
    count = total(sums)
    return {"examples": examples(count), "nt_xent": float(sums["nt_xent"]) / count}


def _each(outputs: Any, labels: jax.Array) -> dict[str, jax.Array]:
    z, labels = _vectors(outputs, labels)
    return {"embedding": z, "label": labels, "loss": nt_xent(outputs, labels)}


def _check(outputs: Any, classes: int) -> None:
    z = first_of(outputs)
    if getattr(z, "ndim", 0) != 2:
        raise ConfigError(f"the network must give embeddings [N, D], it gives {described(z)}")


embedding = Task(
    "embedding",
    loss=nt_xent,
    sums=_sums,
    eval_sums=_sums,
    each=_each,
    summarize=_summarize,
    whole=recall,
    monitors={
        "recall_at_1": higher("recall_at_1"),
        "nt_xent": lower("nt_xent"),
    },
    main="nt_xent",
    best="recall_at_1",
    mean_loss="nt_xent",
    shown=("nt_xent", "recall_at_1", "recall_at_5"),
    check=_check,
    predict=first_of,
)
