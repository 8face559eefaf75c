"""Augmentations that change values or mix two images: cutout, noise, colour, mixup, cutmix.

In: (key, one image float32[H, W, C] in 0..1), for mixup and cutmix also its target and a
partner from the same global batch. Out: the new image (and target).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from hcjax.data.augment.limits import check_range


def cutout(key: jax.Array, image: jax.Array, *, size: int = 8, fill: float = 0.0) -> jax.Array:
    """Covers one square of the image.

    Args:
      key: random key.
      image: float32[H, W, C].
      size: side of the square in pixels, >= 1. Its centre is uniform over the image, so part of
        it may lie outside.
      fill: value of the covered pixels, in 0..1.

    Returns:
      float32[H, W, C].

    Reference:
      DeVries and Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout",
      2017, arXiv:1708.04552.

    Example:
      >>> cutout(jax.random.key(0), jnp.ones((4, 4, 1)), size=8).sum().item()
      0.0
    """
    check_range("cutout", "size", size, 1)
    height, width, _ = image.shape
    centre = jax.random.uniform(key, (2,)) * jnp.array([height, width])
    return jnp.where(_box(height, width, jnp.floor(centre), (size, size)), fill, image)


def noise(key: jax.Array, image: jax.Array, *, std: float = 0.05) -> jax.Array:
    """Adds normal noise to the image and clips it to 0..1.

    Args:
      key: random key.
      image: float32[H, W, C].
      std: standard deviation of the noise, where a pixel is 0..1, >= 0.

    Returns:
      float32[H, W, C].

    Example:
      >>> noise(jax.random.key(0), jnp.ones((2, 2, 1)), std=0.0).sum().item()
      4.0
    """
    check_range("noise", "std", std, 0)
    return jnp.clip(image + std * jax.random.normal(key, image.shape), 0, 1)


def color(
    key: jax.Array,
    image: jax.Array,
    *,
    brightness: float = 0.2,
    contrast: float = 0.2,
    saturation: float = 0.2,
) -> jax.Array:
    """Changes brightness, contrast and saturation of the image and clips it to 0..1.

    With b, c and s uniform within the limits: x (1 + b); then m + (x - m)(1 + c), m the image's
    mean; then g + (x - g)(1 + s), g each pixel's mean over the channels (nothing for C = 1).

    Args:
      key: random key.
      image: float32[H, W, C].
      brightness, contrast, saturation: b, c, s lie in -limit .. limit, each in [0, 1].

    Returns:
      float32[H, W, C].

    Example:
      >>> image = jnp.full((2, 2, 3), 0.5)
      >>> color(jax.random.key(0), image, brightness=0.0).mean().item()
      0.5
    """
    for name, limit in (
        ("brightness", brightness), ("contrast", contrast), ("saturation", saturation)
    ):  # fmt: skip
        check_range("color", name, limit, 0, 1)
    limits = jnp.array([brightness, contrast, saturation])
    factor = 1 + jax.random.uniform(key, (3,), minval=-1.0, maxval=1.0) * limits
    image = image * factor[0]
    mean = image.mean()
    image = mean + (image - mean) * factor[1]
    grey = image.mean(-1, keepdims=True)
    return jnp.clip(grey + (image - grey) * factor[2], 0, 1)


def mixup(
    key: jax.Array,
    image: jax.Array,
    target: jax.Array,
    partner_image: jax.Array,
    partner_target: jax.Array,
    *,
    alpha: float = 0.2,
) -> tuple[jax.Array, jax.Array]:
    """Mixes image and target with the partner's: l x + (1 - l) x', l ~ Beta(alpha, alpha).

    Args:
      key: random key.
      image, partner_image: float32[H, W, C].
      target, partner_target: float32[K] probabilities.
      alpha: > 0; small: mostly one of the two.

    Returns:
      (float32[H, W, C], float32[K]).

    Reference:
      Zhang et al., "mixup: Beyond Empirical Risk Minimization", 2017, arXiv:1710.09412, eq. 1.

    Example:
      >>> one, two = jnp.ones((1, 1, 1)), jnp.zeros((1, 1, 1))
      >>> x, y = mixup(jax.random.key(0), one, jnp.array([1.0, 0]), two, jnp.array([0, 1.0]))
      >>> bool(x.item() == y[0])
      True
    """
    check_range("mixup", "alpha", alpha, 1e-3)
    share = _symmetric_beta(key, alpha)
    mixed = share * image + (1 - share) * partner_image
    return mixed, share * target + (1 - share) * partner_target


def cutmix(
    key: jax.Array,
    image: jax.Array,
    target: jax.Array,
    partner_image: jax.Array,
    partner_target: jax.Array,
    *,
    alpha: float = 1.0,
) -> tuple[jax.Array, jax.Array]:
    """Pastes a box of the partner into the image; targets are mixed by area.

    The box has the image's proportions and the share 1 - l of its area, l ~ Beta(alpha, alpha),
    with its centre uniform over the image. It is cropped at the border; targets are mixed by the
    share of pasted pixels.

    Args:
      key: random key.
      image, partner_image: float32[H, W, C].
      target, partner_target: float32[K] probabilities.
      alpha: > 0.

    Returns:
      (float32[H, W, C], float32[K]).

    Reference:
      Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable
      Features", 2019, arXiv:1905.04899, section 3.1.

    Example:
      >>> one, two = jnp.ones((8, 8, 1)), jnp.zeros((8, 8, 1))
      >>> x, y = cutmix(jax.random.key(0), one, jnp.array([1.0, 0]), two, jnp.array([0, 1.0]))
      >>> bool(x.mean() == y[0])
      True
    """
    check_range("cutmix", "alpha", alpha, 1e-3)
    height, width, _ = image.shape
    share_key, centre_key = jax.random.split(key)
    side = jnp.sqrt(1 - _symmetric_beta(share_key, alpha))
    centre = jnp.floor(jax.random.uniform(centre_key, (2,)) * jnp.array([height, width]))
    pasted = _box(height, width, centre, (jnp.round(side * height), jnp.round(side * width)))
    share = 1 - pasted.mean()
    mixed = jnp.where(pasted, partner_image, image)
    return mixed, share * target + (1 - share) * partner_target


def _symmetric_beta(key: jax.Array, alpha: float) -> jax.Array:
    """Draws from Beta(alpha, alpha) in closed form.

    x / sqrt(1 + x^2) / 2 + 1/2 with x = sqrt(U^(-1/alpha) - 1) cos(2 pi V) (Devroye, "Random
    Variate Generation in One Line of Code", 1996, from Bailey's t distribution). Exact like
    jax.random.beta, whose rejection loops take seconds to compile for a CPU.
    """
    u, v = jax.random.uniform(key, (2,), minval=jnp.finfo(jnp.float32).tiny)
    x = jnp.sqrt(jnp.expm1(jnp.minimum(-jnp.log(u) / alpha, 60.0))) * jnp.cos(2 * jnp.pi * v)
    return 0.5 + 0.5 * x / jnp.sqrt(1 + x**2)


def _box(height: int, width: int, centre: jax.Array, sides: tuple) -> jax.Array:
    """Marks, in bool[H, W, 1], a box of integer sides that starts sides/2 before `centre`."""
    rows, columns = jnp.arange(height)[:, None, None], jnp.arange(width)[None, :, None]
    top, left = centre[0] - sides[0] // 2, centre[1] - sides[1] // 2
    inside = (rows >= top) & (rows < top + sides[0])
    return inside & (columns >= left) & (columns < left + sides[1])
