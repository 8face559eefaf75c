"""What is attacked: a network of pixels in 0..1, and the examples that it is asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from hcjax.accelerate import compiler
from hcjax.data import Dataset, arrays
from hcjax.errors import ConfigError, DataError
from hcjax.graph.model import Model


def in_pixels(model: Any, mean: Any, std: Any) -> tuple[Callable, Any]:
    """Returns (apply, params) of a network of pixels: apply(params, x) = network((x - mean) / std).

    Args:
      model: Model, or pair (apply, params), of normalised inputs.
      mean, std: float[C], where a pixel is 0..1.

    Raises:
      ConfigError: if it is neither.

    Example:
      >>> apply, params = in_pixels((lambda p, x: p * x, 2.0), 0.5, 0.25)
      >>> apply(params, jnp.array([1.0])).tolist()
      [4.0]
    """
    if isinstance(model, Model):
        network, params = model.apply, model.params
    elif isinstance(model, tuple | list) and len(model) == 2 and callable(model[0]):
        network, params = model
    else:
        raise ConfigError(
            f"a Model or a pair (apply, params) can be attacked, got a {type(model).__name__}"
        )
    mean, std = np.asarray(mean, np.float32), np.asarray(std, np.float32)
    return lambda params, x: network(params, (x - mean) / std), params


def examples(model: Any, data: Any, limit: int | None) -> tuple:
    """Returns (pixels float32[N, ...] in 0..1, labels int32[N], mean, std).

    Args:
      model: whose normalisation is taken where the data has none.
      data: Dataset, of which the test set; or (images, labels).
      limit: of examples, the first; None for all.

    Raises:
      DataError: if there are no labelled images.

    Example:
      >>> images = np.full((1, 2, 2, 1), 255, np.uint8)
      >>> pixels, labels, mean, std = examples(None, (images, [0]), None)
      >>> float(pixels.max()), labels.tolist()
      (1.0, [0])
    """
    about = (model.about or {}) if isinstance(model, Model) else {}
    mean, std = about.get("mean", 0.0), about.get("std", 1.0)
    if isinstance(data, Dataset):
        images, labels = data.test.inputs, data.test.targets
        mean, std = (m if d is None else d for m, d in ((mean, data.mean), (std, data.std)))
    else:
        images, labels = data
    labels = np.asarray(labels)[:limit]
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or not len(labels):
        raise DataError(
            f"attacks need test examples with one label each, int[N]; found labels "
            f"{labels.dtype}{list(labels.shape)}"
        )
    images = arrays.pixels(np.asarray(images[: len(labels)]))
    pixels = images.astype(np.float32) / 255 if images.dtype == np.uint8 else images
    return np.asarray(pixels, np.float32), labels.astype(np.int32), mean, std


def batches(chosen: np.ndarray, batch_size: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Splits positions into batches, each with itself filled up to one of a few sizes.

    Args:
      chosen: int[n]. batch_size: >= 1.

    Returns:
      [(int[m], int[size >= m])]: the second repeats the first. Sizes are the batch size, halved as
      often as it still fits and is 16 or more, so that few programs are compiled.

    Example:
      >>> [(len(a), len(b)) for a, b in batches(np.arange(100), 64)]
      [(64, 64), (36, 64)]
    """
    parts = [chosen[i : i + batch_size] for i in range(0, len(chosen), batch_size)]
    filled = []
    for part in parts:
        size = batch_size
        while size // 2 >= max(len(part), 16):
            size //= 2
        filled.append((part, np.resize(part, size)))
    return filled


def correct(network: Callable, params: Any, batch_size: int) -> Callable:
    """Returns (pixels, labels) -> bool[N], classified correctly.

    Args:
      network: `(params, pixels) -> logits`. batch_size: at a time.

    Example:
      >>> right = correct(lambda p, x: x, None, 2)
      >>> right(np.float32([[1, 0], [1, 0], [0, 1]]), np.array([0, 1, 1])).tolist()
      [True, False, True]
    """

    def right(params, x):  # logits that are not finite are no answer
        logits = network(params, x)
        return jnp.where(jnp.isfinite(logits).all(-1), logits.argmax(-1), -1)

    predict = compiler.jit(right)

    def all_of(pixels, labels):
        out = np.empty(len(labels), bool)
        for part, some in batches(np.arange(len(labels)), batch_size):
            out[part] = np.asarray(predict(params, pixels[some]))[: len(part)] == labels[part]
        return out

    return all_of
