"""Bilinear resampling of an image at any coordinates, the last step of geometric augmentations.

In: an image and the source coordinates of each output pixel. Out: the resampled image, with 0
outside.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def bilinear(image: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """Samples the image at fractional coordinates; pixels outside the image are 0.

    out[p] = sum over the four pixels (i, j) around (r, c) = (rows[p], columns[p]) of
    (1 - |r - i|) (1 - |c - j|) image[i, j].

    Args:
      image: float32[H, W, C].
      rows: float32[h, w], 0 is the centre of the first row, H - 1 that of the last.
      columns: float32[h, w], likewise.

    Returns:
      float32[h, w, C].

    Note:
      Four flat gathers from the zero-padded image. For a batch of 128 at 28x28 on two CPU cores
      this took 0.5 ms, one gather of 2x2 blocks 3 ms or more, and the same as dense products with
      interpolation weights 5 ms or more.

    Example:
      >>> image = jnp.array([[0.0, 1.0], [2.0, 3.0]])[..., None]
      >>> bilinear(image, jnp.array([[0.5]]), jnp.array([[0.5]])).item()
      1.5
    """
    height, width, channels = image.shape
    top, left = jnp.floor(rows), jnp.floor(columns)
    down, right = (rows - top)[..., None], (columns - left)[..., None]
    flat = jnp.pad(image, ((1, 1), (1, 1), (0, 0))).reshape(-1, channels)

    def at(i, j):
        i = jnp.clip(i.astype(jnp.int32) + 1, 0, height + 1)  # outside: the border of zeros
        j = jnp.clip(j.astype(jnp.int32) + 1, 0, width + 1)
        return jnp.take(flat, i * (width + 2) + j, axis=0, mode="clip")

    above = (1 - right) * at(top, left) + right * at(top, left + 1)
    below = (1 - right) * at(top + 1, left) + right * at(top + 1, left + 1)
    return (1 - down) * above + down * below


def grid(height: int, width: int) -> tuple[jax.Array, jax.Array]:
    """Returns rows and columns, float32[H, W] each, of the pixels relative to the centre."""
    rows = jnp.arange(height, dtype=jnp.float32) - (height - 1) / 2
    columns = jnp.arange(width, dtype=jnp.float32) - (width - 1) / 2
    return jnp.meshgrid(rows, columns, indexing="ij")


def warp(image: jax.Array, matrix: jax.Array, offset: jax.Array, displacement=0.0) -> jax.Array:
    """Applies the linear map `matrix` about the image's centre, then moves it by `offset`.

    Output pixel p (relative to the centre) shows the image at
    inverse(matrix) (p - offset) + displacement[p].

    Args:
      image: float32[H, W, C].
      matrix: float32[2, 2], acts on (row, column); not singular.
      offset: float32[2], (row, column) in pixels.
      displacement: float32[2, H, W] in pixels, or 0.

    Returns:
      float32[H, W, C], 0 where the source lies outside.

    Example:
      >>> image = jnp.array([[1.0, 2.0, 3.0]])[..., None]
      >>> warp(image, jnp.eye(2), jnp.array([0.0, 1.0]))[0, :, 0].tolist()
      [0.0, 1.0, 2.0]
    """
    height, width, _ = image.shape
    rows, columns = grid(height, width)
    rows, columns = rows - offset[0], columns - offset[1]
    (a, b), (c, d) = matrix
    determinant = a * d - b * c
    source = jnp.stack([(d * rows - b * columns), (a * columns - c * rows)]) / determinant
    source = source + displacement
    return bilinear(image, source[0] + (height - 1) / 2, source[1] + (width - 1) / 2)
