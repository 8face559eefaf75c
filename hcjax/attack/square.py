"""The Square attack: random search over squares, which asks for logits and never for gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from hcjax.attack import balls
from hcjax.attack.objectives import margin
from hcjax.errors import ConfigError

# of 10,000 queries: after so many the share of changed pixels is halved
_HALVED = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


def square(
    apply: Callable,
    params: Any,
    inputs: jax.Array,
    labels: jax.Array,
    key: jax.Array,
    *,
    eps: float,
    norm: str = "linf",
    steps: int = 5000,
    share: float = 0.8,
) -> jax.Array:
    """Changes random squares of each image where that lowers its margin, until it is misclassified.

    A square of side √(p · H · W) gets ±2ε a channel (L∞), or mass moved from another square and
    spread as two opposite pyramids (L2); p falls from `share` by halves. The change is kept where
    z_y - max over j ≠ y of z_j falls.

    Args:
      apply: `(params, inputs) -> logits float[N, K]`, of any kind: no gradient is asked for.
      params: of `apply`.
      inputs: float32[N, H, W, C] in 0..1.
      labels: int[N].
      key: PRNG key; each image has squares of its own.
      eps: radius >= 0, where a pixel is 0..1.
      norm: "linf" or "l2". Static.
      steps: queries an image, >= 1. Static.
      share: p of the first squares, in (0, 1]. Static.

    Returns:
      float32[N, H, W, C] in 0..1, within eps of the inputs.

    Raises:
      ConfigError: if inputs are no images, or eps or the norm is illegal.

    Reference:
      Andriushchenko et al., "Square Attack: a query-efficient black-box adversarial attack via
      random search", 2020, arXiv:1912.00049, algorithms 1 to 3, and the margin loss. Deviation: in
      the authors' code all images of a batch share a square's place.

    Example:
      >>> net = lambda p, x: jnp.stack([x.sum((1, 2, 3)) - 4, 0 * x.sum((1, 2, 3))], -1)
      >>> x, y = jnp.full((1, 3, 3, 1), 0.5), jnp.array([0])  # 4.5: the first class
      >>> square(net, None, x, y, jax.random.key(0), eps=0.25, steps=50).sum().item() < 4
      True
    """
    balls.check(eps, norm)
    if inputs.ndim != 4:
        raise ConfigError(
            f"square changes squares of images [N, H, W, C], got {list(inputs.shape)}: leave it out"
        )
    sides = jnp.asarray(_sides(steps, share, inputs.shape[1:3], norm))
    start_key, key = jax.random.split(key)
    propose = {"linf": _replaced, "l2": _moved}[norm]
    first = {"linf": _stripes, "l2": _tiles}[norm](start_key, inputs, eps)
    best = balls.project(first, inputs, eps, norm)

    def move(state):
        step, best, value = state
        moved = propose(jax.random.fold_in(key, step), best, inputs, sides[step], eps)
        moved = balls.project(moved, inputs, eps, norm)
        new = margin(apply(params, moved), labels)
        # what is misclassified stays as it is
        better = (new > value) & (value <= 0)
        best = jnp.where(balls.like(better, best), moved, best)
        return step + 1, best, jnp.where(better, new, value)

    def goes_on(state):
        return (state[0] < steps) & (state[2] <= 0).any()

    value = margin(apply(params, best), labels)
    return lax.while_loop(goes_on, move, (jnp.zeros((), jnp.int32), best, value))[1]


def _sides(steps: int, share: float, size: tuple[int, ...], norm: str) -> np.ndarray:
    """Returns int[steps], the side of the square of each query."""
    queries = np.arange(steps) * 10_000 // steps
    p = share / 2.0 ** np.searchsorted(_HALVED, queries, side="left")
    side = np.round(np.sqrt(p * size[0] * size[1])).astype(np.int32)
    if norm == "l2":
        side = np.maximum(side, 3)
        side += 1 - side % 2
    least = min(size) if norm == "linf" else min(size) - 1 + min(size) % 2
    return np.clip(side, 1, max(least, 1))


def _signs(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jax.random.rademacher(key, shape, jnp.float32)


def _stripes(key: jax.Array, inputs: jax.Array, eps: float) -> jax.Array:
    """Starts L∞: vertical stripes of ±eps."""
    n, _, width, channels = inputs.shape
    return inputs + eps * _signs(key, (n, 1, width, channels))


def _places(key: jax.Array, n: int, size: tuple[int, int], side: jax.Array) -> tuple:
    """Draws the first row and column of a square for each image, int[N] each."""
    draws = jax.random.uniform(key, (2, n))
    limit = jnp.array(size)[:, None] - side + 1
    return tuple(jnp.minimum((draws * limit).astype(jnp.int32), limit - 1))


def _inside(place: tuple, size: tuple[int, int], side: jax.Array) -> jax.Array:
    """Marks a square in each image, bool[N, H, W, 1]."""
    rows, columns = jnp.arange(size[0])[None, :, None], jnp.arange(size[1])[None, None, :]
    top, left = (p[:, None, None] for p in place)
    inside = (rows >= top) & (rows < top + side) & (columns >= left) & (columns < left + side)
    return inside[..., None]


def _replaced(key: jax.Array, best: jax.Array, inputs: jax.Array, side: jax.Array, eps: float):
    """Proposes L∞: a square whose perturbation becomes ±eps, where the box allows it."""
    n, height, width, channels = inputs.shape
    place_key, sign_key = jax.random.split(key)
    inside = _inside(_places(place_key, n, (height, width), side), (height, width), side)
    change = 2 * eps * _signs(sign_key, (n, 1, 1, channels))
    return jnp.where(inside, best + change, best)  # the projection makes ±eps of it


def _pyramids(place: tuple, size: tuple[int, int], side: jax.Array, flip: jax.Array) -> jax.Array:
    """Spreads mass over a square of each image: two opposite pyramids, of norm 1.

    The value at m steps from a half's centre is Σ_(k >= m) 1 / (k + 1)², as in the paper's eq. 2.

    Args:
      place: of `_places`. size: (H, W). side: odd. flip: bool[N], left and right, not up and down.

    Returns:
      float32[N, H, W, 1], 0 outside the square.
    """
    longest = max(size) // 2 + 2
    tail = jnp.concatenate([jnp.zeros(1), jnp.cumsum(1.0 / jnp.arange(1.0, longest + 1) ** 2)])
    rows = jnp.arange(size[0])[None, :, None] - place[0][:, None, None]
    columns = jnp.arange(size[1])[None, None, :] - place[1][:, None, None]
    flip = flip[:, None, None]
    across, along = jnp.where(flip, columns, rows), jnp.where(flip, rows, columns)
    half = side // 2

    def pyramid(across, thick):
        far = jnp.maximum(jnp.abs(across - thick // 2), jnp.abs(along - half))
        far, top = jnp.clip(far, 0, longest), jnp.minimum(half + 1, longest)
        inside = (across >= 0) & (across < thick) & (along >= 0) & (along < side)
        value = jnp.where(inside, jnp.maximum(tail[top] - tail[far], 0.0), 0.0)[..., None]
        return value / balls.like(jnp.maximum(balls.size(value, "l2"), 1e-12), value)

    return (pyramid(across, half) - pyramid(across - half, side - half)) / jnp.sqrt(2.0)


def _tiles(key: jax.Array, inputs: jax.Array, eps: float) -> jax.Array:
    """Starts L2: a grid of 5 × 5 pairs of pyramids."""
    n, height, width, channels = inputs.shape
    side = max(min(height, width) // 5, 1)
    flip_key, sign_key = jax.random.split(key)
    flip, corner = jax.random.bernoulli(flip_key, 0.5, (n,)), jnp.zeros(n, jnp.int32)
    tile = _pyramids((corner, corner), (side, side), jnp.asarray(side), flip)
    rows, columns = height // side, width // side
    signs = _signs(sign_key, (n, rows, columns, channels)).repeat(side, 1).repeat(side, 2)
    delta = jnp.tile(tile, (1, rows, columns, 1)) * signs
    border = ((0, 0), (0, height - rows * side), (0, width - columns * side), (0, 0))
    return inputs + eps * balls.ascent(jnp.pad(delta, border), "l2")


def _moved(key: jax.Array, best: jax.Array, inputs: jax.Array, side: jax.Array, eps: float):
    """Proposes L2: the mass of two squares, and what is left of eps, goes to the first of them."""
    n, height, width, channels = inputs.shape
    size, delta = (height, width), best - inputs
    one, two, three, four = jax.random.split(key, 4)
    place = _places(one, n, size, side)
    to, source = _inside(place, size, side), _inside(_places(two, n, size, side), size, side)

    def length(x, axes):
        return jnp.sqrt(jnp.square(x).sum(axes, keepdims=True))

    flip = jax.random.bernoulli(three, 0.5, (n,))
    spread = _pyramids(place, size, side, flip) * _signs(four, (n, 1, 1, channels))
    old = jnp.where(to, delta, 0.0)
    spread = spread + old / (1e-12 + length(old, (1, 2)))
    unused = jnp.maximum(eps**2 - length(delta, (1, 2, 3)) ** 2, 0) / channels
    mass = jnp.sqrt(unused + length(jnp.where(to | source, delta, 0.0), (1, 2)) ** 2)
    spread = spread / (1e-12 + length(spread, (1, 2))) * mass
    delta = jnp.where(to, spread, jnp.where(source, 0.0, delta))
    return inputs + eps * balls.ascent(delta, "l2")  # to the surface, before it is clipped
