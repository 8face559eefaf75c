"""Segmentation: a class for every pixel, or every step of a sequence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hcjax.errors import ConfigError
from hcjax.tasks import pictures
from hcjax.tasks.task import (
    Task,
    described,
    examples,
    first_of,
    higher,
    lower,
    none_beyond,
    total,
)


def pixel_cross_entropy(outputs: Any, target: jax.Array) -> jax.Array:
    """Computes the cross-entropy of each example, the mean over its pixels.

    Args:
      outputs: logits float[N, ..., K], or a tuple of which they are the first.
      target: int[N, ...] classes 0..K-1; negative ones do not count.

    Returns:
      float32[N], nats.

    Raises:
      ConfigError: if the shapes do not fit together.

    Example:
      >>> loss = pixel_cross_entropy(jnp.zeros((1, 2, 2, 4)), jnp.zeros((1, 2, 2), int))
      >>> round(float(loss[0]), 4)
      1.3863
    """
    logits, target, valid = _fitting(outputs, target)
    log_p = jax.nn.log_softmax(logits)
    own = jnp.take_along_axis(log_p, target[..., None], -1)[..., 0]
    size = jnp.maximum(valid.reshape(len(valid), -1).sum(-1), 1)
    return -jnp.where(valid, own, 0).reshape(len(valid), -1).sum(-1) / size


def dice(outputs: Any, target: jax.Array) -> jax.Array:
    """Computes 1 - the mean over the classes of 2 Σ p t / (Σ p + Σ t), of each example.

    Args:
      outputs, target: as of `pixel_cross_entropy`; p is the softmax, t one-hot.

    Returns:
      float32[N], in [0, 1].

    Reference:
      Milletari et al., "V-Net", 2016, arXiv:1606.04797, section 3. Deviations: without squares; a
      class that is neither there nor predicted counts as right.

    Example:
      >>> logits = 50.0 * jax.nn.one_hot(jnp.array([[0, 1]]), 2)
      >>> dice(logits, jnp.array([[0, 1]])).round(3).tolist()
      [0.0]
    """
    logits, target, valid = _fitting(outputs, target)
    axes = tuple(range(1, target.ndim))
    p = jnp.where(valid[..., None], jax.nn.softmax(logits), 0)
    t = jnp.where(valid[..., None], jax.nn.one_hot(target, logits.shape[-1]), 0)
    both, either = (p * t).sum(axes), p.sum(axes) + t.sum(axes)
    return 1 - ((2 * both + 1e-3) / (either + 1e-3)).mean(-1)


def cross_entropy_and_dice(outputs: Any, target: jax.Array) -> jax.Array:
    """Computes `pixel_cross_entropy` + `dice`, float32[N]: small objects count as much as large."""
    return pixel_cross_entropy(outputs, target) + dice(outputs, target)


def _fitting(outputs: Any, target: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns (logits float32, classes brought into 0..K-1, which pixels count)."""
    logits = first_of(outputs)
    shape, ours = getattr(target, "shape", None), getattr(logits, "shape", ())
    integers = jnp.issubdtype(getattr(target, "dtype", jnp.float32), jnp.integer)
    if not integers or len(ours) < 3 or ours[:-1] != shape:
        raise ConfigError(
            "segmentation compares logits [N, ..., K] with integers [N, ...], got "
            f"{described(logits)} and {described(target)}"
        )
    legal = jnp.clip(target, 0, ours[-1] - 1)
    return logits.astype(jnp.float32), legal, target >= 0


def _beyond(target: jax.Array, classes: int, weight: jax.Array) -> jax.Array:
    """Counts the classes that no logit is of, float32[]."""
    wrong = (target >= classes) & (weight != 0).reshape(-1, *[1] * (target.ndim - 1))
    return wrong.astype(jnp.float32).sum()


def _sums(outputs: Any, targets: jax.Array, weight: jax.Array) -> dict[str, jax.Array]:
    logits, target, valid = _fitting(outputs, targets)
    counts = valid & (weight != 0).reshape(-1, *[1] * (valid.ndim - 1))
    right = counts & (logits.argmax(-1) == target)
    nll = jnp.where(weight != 0, weight * pixel_cross_entropy(outputs, targets), 0)
    one = jnp.float32
    return {
        "count": weight.astype(one).sum(),
        "pixels": counts.astype(one).sum(),
        "right": right.astype(one).sum(),
        "nll": nll.sum(),
        "beyond": _beyond(targets, logits.shape[-1], weight),
    }


def _eval_sums(outputs: Any, targets: jax.Array, mask: jax.Array) -> dict[str, jax.Array]:
    logits, target, valid = _fitting(outputs, targets)
    classes = logits.shape[-1]
    counts = (valid & mask.reshape(-1, *[1] * (valid.ndim - 1))).astype(jnp.int32)
    confusion = jnp.zeros((classes, classes), jnp.int32)
    confusion = confusion.at[target, logits.argmax(-1)].add(counts)
    sums = _sums(outputs, targets, mask.astype(jnp.float32))
    counted = {name: sums[name] for name in ("nll", "beyond")}
    return {"count": mask.astype(jnp.int32).sum(), "confusion": confusion, **counted}


def _summarize(sums: Mapping[str, Any]) -> dict[str, Any]:
    """Returns nll, pixel accuracy and, of an evaluation, the IoU of each class and their mean.

    IoU_k = pixels of class k that are found / pixels that are, or are said to be, of class k. A
    class that is nowhere has none (None), and does not count in the mean. object_iou is the mean
    over all classes but the first, the background.
    """
    count = total(sums)
    none_beyond(sums)
    scores = {"examples": examples(count), "nll": float(sums["nll"]) / count}
    if "confusion" not in sums:
        return scores | {"accuracy": float(sums["right"]) / max(float(sums["pixels"]), 1)}
    confusion = np.asarray(sums["confusion"], np.int64)
    both = confusion.diagonal()
    either = confusion.sum(0) + confusion.sum(1) - both
    ious = [int(b) / int(e) if e else None for b, e in zip(both, either, strict=True)]
    scores["accuracy"] = float(both.sum() / max(confusion.sum(), 1))
    known = [iou for iou in ious if iou is not None]
    objects = [iou for iou in ious[1:] if iou is not None]
    scores["iou"] = sum(known) / max(len(known), 1)
    scores["object_iou"] = sum(objects) / max(len(objects), 1)
    return scores | {"per_class": ious}


def _each(outputs: Any, targets: jax.Array) -> dict[str, jax.Array]:
    logits, target, valid = _fitting(outputs, targets)
    right = valid & (logits.argmax(-1) == target)
    count = jnp.maximum(valid.reshape(len(valid), -1).sum(-1), 1)
    return {
        "loss": pixel_cross_entropy(outputs, targets),
        "accuracy": right.reshape(len(right), -1).sum(-1) / count,
    }


def _check(outputs: Any, classes: int) -> None:
    shape = getattr(first_of(outputs), "shape", ())
    if len(shape) < 3 or shape[-1] < classes:
        raise ConfigError(
            f"the network must give logits [N, ..., {classes or 'K'}] for every pixel, it gives "
            f"{described(first_of(outputs))}"
        )


segmentation = Task(
    "segmentation",
    loss=cross_entropy_and_dice,
    sums=_sums,
    eval_sums=_eval_sums,
    each=_each,
    summarize=_summarize,
    monitors={"nll": lower("nll"), "iou": higher("iou"), "object_iou": higher("object_iou")},
    main="accuracy",
    best="object_iou",
    mean_loss="nll",
    shown=("nll", "accuracy", "iou", "object_iou"),
    check=_check,
    predict=lambda outputs: jnp.argmax(first_of(outputs), -1),
    losses={"cross_entropy": pixel_cross_entropy, "dice": dice},
    teach="kl",
    pictures=pictures.masks,
)
