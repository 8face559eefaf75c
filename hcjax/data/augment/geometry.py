"""Augmentations that move pixels: shift, crop, flip, affine, elastic.

In: (key, one image float32[H, W, C] in 0..1). Out: another image. Lengths are in
pixels. Every random geometric change is a single resampling, to keep images sharp.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from hcjax.data.augment.limits import check_range
from hcjax.data.augment.resample import bilinear, warp


def shift(key: jax.Array, image: jax.Array, *, pixels: int = 2) -> jax.Array:
    """Moves the image by whole pixels and fills the gap with 0.

    The "random crop with padding 4" of CIFAR recipes is `shift` with 4 pixels.

    Args:
      key: random key.
      image: float32[H, W, C].
      pixels: each axis moves by an integer uniform in -pixels .. pixels, >= 0.

    Returns:
      float32[H, W, C].

    Example:
      >>> shift(jax.random.key(0), jnp.ones((4, 4, 1)), pixels=0).sum().item()
      16.0
    """
    check_range("shift", "pixels", pixels, 0)
    start = jax.random.randint(key, (2,), 0, 2 * pixels + 1)
    padded = jnp.pad(image, ((pixels, pixels), (pixels, pixels), (0, 0)))
    return jax.lax.dynamic_slice(padded, (start[0], start[1], 0), image.shape)


def crop(
    key: jax.Array,
    image: jax.Array,
    *,
    area: tuple[float, float] = (0.25, 1.0),
    aspect: tuple[float, float] = (3 / 4, 4 / 3),
) -> jax.Array:
    """Crops a random box of the image and enlarges it to the image's size.

    Args:
      key: random key.
      image: float32[H, W, C].
      area: the box's share of the image is uniform in this range, within (0, 1].
      aspect: its width : height, times the image's, is log-uniform in this range, > 0.

    Returns:
      float32[H, W, C].

    Note:
      Bilinear, exact for enlarging. The box is clipped to the image.

    Reference:
      Szegedy et al., "Going Deeper with Convolutions", 2014, arXiv:1409.4842, section 6.

    Example:
      >>> crop(jax.random.key(0), jnp.ones((4, 4, 1))).min().item()
      1.0
    """
    check_range("crop", "area", area[0], 1e-6, area[1])
    check_range("crop", "area", area[1], area[0], 1)
    check_range("crop", "aspect", aspect[0], 1e-6, aspect[1])
    height, width, _ = image.shape
    keys = jax.random.split(key, 3)
    share = jax.random.uniform(keys[0], minval=area[0], maxval=area[1])
    bounds = jnp.log(jnp.array(aspect, jnp.float32))
    ratio = jnp.exp(jax.random.uniform(keys[1], minval=bounds[0], maxval=bounds[1]))
    part = jnp.minimum(jnp.sqrt(jnp.stack([share / ratio, share * ratio])), 1.0)
    corner = jax.random.uniform(keys[2], (2,)) * (1 - part)
    rows = (corner[0] + part[0] * (jnp.arange(height) + 0.5) / height) * height - 0.5
    columns = (corner[1] + part[1] * (jnp.arange(width) + 0.5) / width) * width - 0.5
    rows, columns = jnp.clip(rows, 0, height - 1), jnp.clip(columns, 0, width - 1)
    return bilinear(image, *jnp.meshgrid(rows, columns, indexing="ij"))


def flip(
    key: jax.Array, image: jax.Array, *, probability: float = 0.5, vertical: bool = False
) -> jax.Array:
    """Mirrors the image with the given probability.

    Args:
      key: random key.
      image: float32[H, W, C].
      probability: in [0, 1].
      vertical: mirror top to bottom instead of left to right.

    Returns:
      float32[H, W, C].

    Example:
      >>> image = jnp.array([[1.0, 2.0]])[..., None]
      >>> flip(jax.random.key(0), image, probability=1.0)[0, :, 0].tolist()
      [2.0, 1.0]
    """
    check_range("flip", "probability", probability, 0, 1)
    mirrored = jnp.flip(image, 0 if vertical else 1)
    return jnp.where(jax.random.bernoulli(key, probability), mirrored, image)


def affine(
    key: jax.Array,
    image: jax.Array,
    *,
    rotate: float = 15.0,
    scale: float = 0.12,
    shift: float = 2.5,
    shear: float = 0.2,
    elastic: float = 0.0,
    cells: int = 4,
) -> jax.Array:
    """Rotates, scales, shears and moves the image about its centre, in one resampling.

    With t, s, h and o uniform within the limits, a point p (row, column from the centre) goes to
    (1 + s) R(t) [[1, 0], [h, 1]] p + o, R(t) a rotation; then elastic displacement, if any, as
    in `elastic`. Pixels from outside the image are 0.

    Args:
      key: random key.
      image: float32[H, W, C].
      rotate: degrees, t in -rotate .. rotate, >= 0.
      scale: s in -scale .. scale, in [0, 1).
      shift: pixels, each of o's two entries in -shift .. shift, >= 0.
      shear: columns moved per row, h in -shear .. shear, >= 0.
      elastic: standard deviation of the elastic displacement in pixels, >= 0.
      cells: its coarse grid, see `elastic`.

    Returns:
      float32[H, W, C].

    Reference:
      Simard, Steinkraus, Platt, "Best Practices for Convolutional Neural Networks Applied to
      Visual Document Analysis", 2003 (for handwritten digits).

    Example:
      >>> image = jnp.arange(9.0).reshape(3, 3, 1)
      >>> same = affine(jax.random.key(0), image, rotate=0, scale=0, shift=0, shear=0)
      >>> bool(jnp.allclose(same, image))
      True
    """
    check_range("affine", "rotate", rotate, 0)
    check_range("affine", "scale", scale, 0, 0.99)
    check_range("affine", "shift", shift, 0)
    check_range("affine", "shear", shear, 0)
    check_range("affine", "elastic", elastic, 0)
    draw, elastic_key = jax.random.split(key)
    unit = jax.random.uniform(draw, (5,), minval=-1.0, maxval=1.0)
    angle = unit[0] * (rotate * jnp.pi / 180)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    slant = unit[2] * shear
    turn = jnp.array([[cos + sin * slant, sin], [cos * slant - sin, cos]])  # R(t) [[1, 0], [h, 1]]
    matrix = (1 + unit[1] * scale) * turn
    displacement = _displacement(elastic_key, image.shape, elastic, cells) if elastic else 0.0
    return warp(image, matrix, unit[3:] * shift, displacement)


def elastic(
    key: jax.Array, image: jax.Array, *, strength: float = 1.0, cells: int = 4
) -> jax.Array:
    """Displaces each pixel by a smooth random field.

    The field is a normal grid of cells x cells vectors, enlarged to the image by cubic
    interpolation.

    Args:
      key: random key.
      image: float32[H, W, C].
      strength: standard deviation of the grid's vectors in pixels, >= 0.
      cells: grid points along each axis, >= 2; more is rougher.

    Returns:
      float32[H, W, C].

    Reference:
      Simard, Steinkraus, Platt, 2003, section 2. Deviation: a coarse grid enlarged instead of
      white noise smoothed by a Gaussian, which costs more and gives the same kind of field.

    Example:
      >>> image = jnp.arange(9.0).reshape(3, 3, 1)
      >>> bool(jnp.allclose(elastic(jax.random.key(0), image, strength=0), image))
      True
    """
    check_range("elastic", "strength", strength, 0)
    displacement = _displacement(key, image.shape, strength, cells)
    return warp(image, jnp.eye(2), jnp.zeros(2), displacement)


def _displacement(key: jax.Array, shape: tuple, strength: float, cells: int) -> jax.Array:
    """Draws a smooth random field float32[2, H, W] in pixels."""
    check_range("elastic", "cells", cells, 2)
    coarse = strength * jax.random.normal(key, (2, cells, cells))
    return jax.image.resize(coarse, (2, *shape[:2]), "cubic")
