"""Moves a mask as an augmentation moves its image.

In: the augmentation, the key that it gets for the image, and a mask of the image's size. Out: the
mask, moved alike. The augmentation is run once more, on a map of places in the image's stead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

UNKNOWN = -1  # no class: such pixels count in no loss and no score


def moved(function: Callable, key: jax.Array, mask: jax.Array, **options: Any) -> jax.Array:
    """Moves a mask: of each pixel it takes the class that was nearest to where the pixel came from.

    Args:
      function: `(key, image float32[H, W, C], **options) -> image` that resamples an image by
        weights that depend on key, H and W alone, and fills with 0 what comes from outside.
      key: the same that the image's augmentation gets.
      mask: integers [H, W].

    Returns:
      int32[H, W]; -1 for pixels of which more than half came from outside of the image.

    Example:
      >>> from hcjax.data.augment.geometry import shift
      >>> image = jnp.arange(1.0, 10.0).reshape(3, 3, 1)
      >>> shift(jax.random.key(1), image, pixels=1)[..., 0].tolist()
      [[2.0, 3.0, 0.0], [5.0, 6.0, 0.0], [8.0, 9.0, 0.0]]
      >>> moved(shift, jax.random.key(1), jnp.int32(image[..., 0]), pixels=1).tolist()
      [[2, 3, -1], [5, 6, -1], [8, 9, -1]]
    """
    height, width = mask.shape
    rows, columns = jnp.mgrid[:height, :width]
    places = jnp.stack([rows, columns, jnp.ones_like(rows)], -1).astype(jnp.float32)
    row, column, inside = jnp.moveaxis(function(key, places, **options), -1, 0)
    share = jnp.maximum(inside, 1e-6)  # at the border, zeros from outside are mixed in
    row, column = jnp.round(row / share), jnp.round(column / share)
    row = jnp.clip(row.astype(jnp.int32), 0, height - 1)
    column = jnp.clip(column.astype(jnp.int32), 0, width - 1)
    found = jnp.take(mask.astype(jnp.int32).reshape(-1), row * width + column, mode="clip")
    return jnp.where(inside > 0.5, found, UNKNOWN)
