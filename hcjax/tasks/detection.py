"""Centre-point detection: boxes of several classes in an image, each found at its centre.

The network gives a map of logits and a map of boxes, a quarter or an eighth as wide as the image;
decoding and the suppression of duplicates are functions outside of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from hcjax.errors import ConfigError
from hcjax.tasks.task import (
    Task,
    described,
    examples,
    higher,
    lower,
    masked,
    none_beyond,
    total,
)

TOP = 32  # boxes of an image that are decoded
IOU = 0.5  # of a found box with a true one, at least; of two found ones, at most
_BOX = 0.1  # weight of the boxes beside the map, as in the paper
_SPREAD = 0.54  # of the size of a box, the standard deviation of its spot in the map, over 6


class Found(NamedTuple):
    """Boxes that were found in images, the surest first.

    boxes: float32[N, TOP, 4], (y, x, height, width) of centres, as fractions of the image. classes:
    int32[N, TOP]. scores: float32[N, TOP], 0..1; 0 for a box that another one suppresses.
    """

    boxes: jax.Array
    classes: jax.Array
    scores: jax.Array


def decode(outputs: Mapping[str, jax.Array], *, top: int = TOP) -> Found:
    """Reads boxes from the maps of a network: the peaks of the logits, without duplicates.

    Args:
      outputs: "heat", logits float[N, H, W, K], and "box", float[N, H, W, 4]: of each cell (dy, dx)
        from its middle, in cells, and the logarithms of the height and width, in cells.
      top: boxes of an image, >= 1.

    Returns:
      Found. A peak is a cell that is no smaller than its eight neighbours; of two boxes of one
      class whose intersection over union is above 0.5 the less sure one has the score 0.

    Raises:
      ConfigError: if the outputs have another form.

    Reference:
      Zhou et al., "Objects as Points", 2019, arXiv:1904.07850, section 5. Deviation: suppression.

    Example:
      >>> heat = jnp.full((1, 4, 4, 1), -9.0).at[0, 1, 2, 0].set(9.0)
      >>> found = decode({"heat": heat, "box": jnp.zeros((1, 4, 4, 4))}, top=1)
      >>> found.boxes.tolist()
      [[[0.375, 0.625, 0.25, 0.25]]]
    """
    heat, box = _maps(outputs)
    n, height, width, classes = heat.shape
    p = jax.nn.sigmoid(heat)
    window = (1, 3, 3, 1)
    peak = p == lax.reduce_window(p, -jnp.inf, lax.max, window, (1, 1, 1, 1), "SAME")
    scores, index = lax.top_k(jnp.where(peak, p, 0).reshape(n, -1), min(top, p[0].size))
    cell, kind = index // classes, index % classes
    at = jnp.take_along_axis(box.reshape(n, -1, 4), cell[..., None], 1)
    size = jnp.array([height, width], jnp.float32)
    place = jnp.stack([cell // width, cell % width], -1) + 0.5 + at[..., :2]
    boxes = jnp.concatenate([place / size, jnp.exp(jnp.minimum(at[..., 2:], 8.0)) / size], -1)
    found = Found(boxes, kind.astype(jnp.int32), scores)
    return found._replace(scores=jax.vmap(_without_duplicates)(*found))


def iou(one: jax.Array, other: jax.Array) -> jax.Array:
    """Computes the intersection over union of boxes (y, x, height, width), float32[..., M, L].

    Args:
      one: float[..., M, 4]. other: float[..., L, 4].

    Example:
      >>> a = jnp.array([[0.5, 0.5, 1.0, 1.0]])
      >>> iou(a, jnp.array([[0.5, 0.5, 1.0, 0.5], [2.5, 0.5, 1.0, 1.0]])).tolist()
      [[0.5, 0.0]]
    """
    a, b = one[..., :, None, :], other[..., None, :, :]
    low = jnp.maximum(a[..., :2] - a[..., 2:] / 2, b[..., :2] - b[..., 2:] / 2)
    high = jnp.minimum(a[..., :2] + a[..., 2:] / 2, b[..., :2] + b[..., 2:] / 2)
    both = jnp.prod(jnp.maximum(high - low, 0), -1)
    either = jnp.prod(a[..., 2:], -1) + jnp.prod(b[..., 2:], -1) - both
    return both / jnp.maximum(either, 1e-12)


def centre_loss(outputs: Mapping[str, jax.Array], target: Mapping[str, jax.Array]) -> jax.Array:
    """Computes the penalty-reduced focal loss of the map, and the L1 error of boxes at centres.

    Args:
      outputs: as of `decode`.
      target: "boxes" float[N, M, 4], (y, x, height, width) as fractions of the image, and "classes"
        int[N, M], 0..K-1; negative ones are no boxes.

    Returns:
      float32[N], divided by the number of boxes, or 1.

    Raises:
      ConfigError: if outputs or targets have another form.

    Reference:
      Zhou et al., "Objects as Points", 2019, arXiv:1904.07850, eq. 1 to 4, α = 2, β = 4, λ = 0.1.
      Deviations: sizes by their logarithms, with the offsets at the weight λ; a spot is as wide as
      high in proportion to its box.

    Example:
      >>> heat = jnp.full((1, 4, 4, 1), -9.0).at[0, 1, 2, 0].set(9.0)
      >>> boxes = jnp.array([[[0.375, 0.625, 0.25, 0.25]]])
      >>> right = {"heat": heat, "box": jnp.zeros((1, 4, 4, 4))}
      >>> bool(centre_loss(right, {"boxes": boxes, "classes": jnp.zeros((1, 1), int)})[0] < 0.01)
      True
    """
    heat, box = _maps(outputs)
    boxes, classes = _truth(target)
    return jax.vmap(_one_loss)(heat, box, boxes, classes)


def _one_loss(heat, box, boxes, classes) -> jax.Array:
    height, width, count = heat.shape
    size = jnp.array([height, width], jnp.float32)
    real = classes >= 0
    place, extent = boxes[:, :2] * size, boxes[:, 2:] * size
    cell = jnp.clip(jnp.floor(place), 0, size - 1).astype(jnp.int32)
    spread = jnp.maximum(extent * _SPREAD / 6, 0.3)
    rows, columns = jnp.arange(height), jnp.arange(width)
    dy = (rows[None] - cell[:, :1]) / spread[:, :1]  # [M, H]
    dx = (columns[None] - cell[:, 1:]) / spread[:, 1:]
    spot = jnp.exp(-(dy[:, :, None] ** 2 + dx[:, None] ** 2) / 2) * real[:, None, None]
    one_hot = jax.nn.one_hot(classes, count)  # a row of zeros for no box
    wanted = (spot[..., None] * one_hot[:, None, None]).max(0, initial=0.0)
    hit = wanted >= 1
    log_p, log_q = jax.nn.log_sigmoid(heat), jax.nn.log_sigmoid(-heat)
    p = jax.nn.sigmoid(heat)
    focal = jnp.where(hit, (1 - p) ** 2 * log_p, (1 - wanted) ** 4 * p**2 * log_q)
    at = box[cell[:, 0], cell[:, 1]]
    aim = jnp.concatenate([place - cell - 0.5, jnp.log(jnp.maximum(extent, 1e-3))], -1)
    error = (jnp.abs(at - aim).sum(-1) * real).sum()
    return (-focal.sum() + _BOX * error) / jnp.maximum(real.sum(), 1)


def _without_duplicates(boxes, classes, scores) -> jax.Array:
    """Returns the scores of the boxes of an image, 0 for those that a surer one covers."""
    same = (iou(boxes, boxes) > IOU) & (classes[:, None] == classes)

    def step(kept, i):
        covered = (same[i] & kept & (jnp.arange(len(kept)) < i)).any()
        return kept.at[i].set(~covered), None

    kept, _ = lax.scan(step, jnp.zeros(len(scores), bool), jnp.arange(len(scores)))
    return jnp.where(kept, scores, 0)


def _right(found: Found, boxes: jax.Array, classes: jax.Array) -> jax.Array:
    """Marks the boxes of an image that match a true one, each of which is matched once."""
    overlap = iou(found.boxes, boxes)
    fits = (overlap >= IOU) & (found.classes[:, None] == classes) & (classes >= 0)

    def step(taken, i):
        free = jnp.where(fits[i] & ~taken, overlap[i], -1)
        best = free.argmax()
        hit = (free[best] > 0) & (found.scores[i] > 0)
        return taken.at[best].set(taken[best] | hit), hit

    return lax.scan(step, jnp.zeros(len(boxes), bool), jnp.arange(len(found.scores)))[1]


def _maps(outputs: Any) -> tuple[jax.Array, jax.Array]:
    ours = outputs.keys() if isinstance(outputs, Mapping) else ()
    if not {"heat", "box"} <= set(ours):
        raise ConfigError(f'detection needs outputs "heat" and "box", got {described(outputs)}')
    heat, box = outputs["heat"], outputs["box"]
    if heat.ndim != 4 or box.shape != (*heat.shape[:3], 4):
        raise ConfigError(
            f"detection needs heat [N, H, W, K] and box [N, H, W, 4], got {described(outputs)}"
        )
    return heat.astype(jnp.float32), box.astype(jnp.float32)


def _truth(targets: Any) -> tuple[jax.Array, jax.Array]:
    theirs = targets.keys() if isinstance(targets, Mapping) else ()
    if not {"boxes", "classes"} <= set(theirs) or targets["boxes"].shape != (
        *targets["classes"].shape,
        4,
    ):
        raise ConfigError(
            'detection needs targets "boxes" [N, M, 4] and "classes" [N, M], got '
            f"{described(targets)}"
        )
    return targets["boxes"].astype(jnp.float32), targets["classes"].astype(jnp.int32)


def _sums(outputs: Any, targets: Any, weight: jax.Array) -> dict[str, jax.Array]:
    loss = masked(centre_loss(outputs, targets), weight).sum()
    wrong = (targets["classes"] >= outputs["heat"].shape[-1]).astype(jnp.float32)
    return {
        "count": weight.astype(jnp.float32).sum(),
        "centre": loss,
        "beyond": masked(wrong, weight).sum(),
    }


def _each(outputs: Any, targets: Any) -> dict[str, jax.Array]:
    boxes, classes = _truth(targets)
    found, count = decode(outputs), outputs["heat"].shape[-1]
    return {
        "loss": centre_loss(outputs, targets),
        "score": found.scores,
        "class": found.classes,
        "right": jax.vmap(_right)(found, boxes, classes),
        "truth": jax.nn.one_hot(classes, count, dtype=jnp.int32).sum(1),
    }


def _summarize(sums: Mapping[str, Any]) -> dict[str, Any]:
    count = total(sums)
    none_beyond(sums)
    return {"examples": examples(count), "centre_loss": float(sums["centre"]) / count}


def average_precision(each: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Returns the average precision at an intersection over union of 0.5, over all images.

    AP of a class = Σ over its found boxes that are right, from the surest on, of the best precision
    at that recall or beyond, divided by the number of true boxes; ap50 is the mean over classes.

    Args:
      each: arrays of all images: "score" float[N, T], "class" int[N, T], "right" bool[N, T] of the
        found boxes, and "truth" int[N, K], the number of true boxes of each class.

    Returns:
      {"ap50", "per_class": AP of each class, None without a true box}.

    Reference:
      Everingham et al., "The Pascal Visual Object Classes Challenge", 2015, section 4.1: the area
      under the monotone precision/recall curve.

    Example:
      >>> each = {"score": np.array([[0.9, 0.8]]), "class": np.zeros((1, 2), int),
      ...         "right": np.array([[False, True]]), "truth": np.array([[1]])}
      >>> average_precision(each)["ap50"]
      0.5
    """
    score, kind, right = (np.reshape(each[k], -1) for k in ("score", "class", "right"))
    order = np.argsort(-score, kind="stable")
    order = order[score[order] > 0]
    per_class = []
    for k, count in enumerate(np.asarray(each["truth"]).sum(0).tolist()):
        hits = right[order][kind[order] == k].astype(np.float64)
        precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
        best = np.maximum.accumulate(precision[::-1])[::-1]
        per_class.append(float((best * hits).sum() / count) if count else None)
    known = [ap for ap in per_class if ap is not None]
    return {"ap50": sum(known) / max(len(known), 1), "per_class": per_class}


def _check(outputs: Any, classes: int) -> None:
    heat, _ = _maps(outputs)
    if heat.shape[-1] < classes:
        raise ConfigError(f"the map tells {heat.shape[-1]} classes apart, the data has {classes}")


detection = Task(
    "centre-point detection",
    loss=centre_loss,
    sums=_sums,
    eval_sums=_sums,
    each=_each,
    summarize=_summarize,
    whole=average_precision,
    monitors={"centre_loss": lower("centre_loss"), "ap50": higher("ap50")},
    main="centre_loss",
    best="ap50",
    mean_loss="centre_loss",
    shown=("centre_loss", "ap50"),
    check=_check,
    predict=decode,
)
