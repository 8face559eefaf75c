"""Labelled images for measuring a Model, checked in one place."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import jax
import numpy as np

from hcjax.errors import ConfigError
from hcjax.graph.model import Model


def labelled(
    model: Model, images: Any, labels: Any, batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Checks images and labels, and returns them as NumPy arrays.

    Raises:
      ConfigError: if there are no images, the counts of images and labels differ, a label is not
        a whole number in [0, K) with K the number of logits, or batch_size is not one >= 1.

    Example:
      >>> from hcjax import trace
      >>> model = trace(lambda w, x: x @ w, np.ones((3, 2)), np.ones((1, 3)))
      >>> labelled(model, np.ones((4, 3)), [0, 1, 1, 2], 4)
      Traceback (most recent call last):
      hcjax.errors.ConfigError: labels must be whole numbers in [0, 2), the classes; got 2
    """
    images, labels = np.asarray(images), np.asarray(labels)
    if not len(images) or labels.shape != (len(images),):
        raise ConfigError(
            f"images [N, ...] and labels [N] of as many are needed, got {images.shape} and "
            f"{labels.shape}"
        )
    if not isinstance(batch_size, Integral) or batch_size < 1:
        raise ConfigError(f"batch_size must be a whole number >= 1, got {batch_size!r}")
    model.check(images)
    classes = jax.eval_shape(model.apply, model.params, images[:1]).shape[-1]
    integer = np.issubdtype(labels.dtype, np.integer)
    invalid = labels[(labels < 0) | (labels >= classes)] if integer else labels[:1]
    if len(invalid):
        raise ConfigError(
            f"labels must be whole numbers in [0, {classes}), the classes; got {invalid[0]!s}"
            + ("" if integer else f" of {labels.dtype}")
        )
    return images, labels
