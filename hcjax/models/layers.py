"""Layers as plain functions of (params, images) over `jax.lax`; `initial` declares their params.

Activations are NHWC, kernels HWIO (dense: IO). A layer computes in the dtype of its input and
casts its float32 parameters to it on the fly; only normalisation statistics are always float32.
No speed tricks: `accelerate` rewrites the whole step later.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from hcjax.errors import ConfigError, unknown_name

Padding = str | int | tuple[int, int] | list[tuple[int, int]]


def check_activation(activation: str, legal: Sequence[str] = ("relu", "prelu")) -> None:
    """Raises ConfigError unless the activation is legal."""
    if activation not in legal:
        raise ConfigError(unknown_name("activation", str(activation), legal))


def check_rate(name: str, rate: float) -> None:
    """Raises ConfigError unless the rate is in [0, 1)."""
    if not 0 <= rate < 1:
        raise ConfigError(f"{name} must be in [0, 1), got {rate}")


def conv(
    params: dict[str, jax.Array],
    x: jax.Array,
    *,
    stride: int = 1,
    padding: Padding = "SAME",
    groups: int = 1,
) -> jax.Array:
    """Returns the convolution of float[N, H, W, C] plus bias, as float[N, H', W', O]."""
    y = lax.conv_general_dilated(
        x,
        params["kernel"].astype(x.dtype),
        (stride, stride),
        _padding(padding),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )
    return y + params["bias"].astype(x.dtype) if "bias" in params else y


def dense(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    """Returns x[N, I] times the kernel plus bias, as float[N, O]."""
    return x @ params["kernel"].astype(x.dtype) + params["bias"].astype(x.dtype)


def logits(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    """Computes the last dense layer, always in float32."""
    return dense(params, x.astype(jnp.float32))


def activate(activation: str, params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    """Returns the activation of x; PReLU takes its slope per channel from the layer's params.

    "tanh" is LeNet's 1.7159 tanh(2x / 3), which maps ±1 to ±1.
    """
    match activation:
        case "relu":
            return jax.nn.relu(x)
        case "prelu":
            return jnp.where(x > 0, x, x * params["slope"].astype(x.dtype))
        case "tanh":
            return 1.7159 * jnp.tanh(x * (2 / 3))
        case "identity":
            return x
    raise ValueError(f"unknown activation {activation!r}")


def max_pool(x: jax.Array, size: int, stride: int, padding: Padding = "VALID") -> jax.Array:
    """Returns the maximum over size × size windows of float[N, H, W, C]."""
    return _reduce_window(x, -jnp.inf, lax.max, size, stride, padding)


def avg_pool(x: jax.Array, size: int, stride: int, padding: Padding = "VALID") -> jax.Array:
    """Returns the mean over the pixels of each size × size window that lie in the image.

    It is summed in float32.
    """
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    total = _reduce_window(wide, 0.0, lax.add, size, stride, padding)
    if padding == "VALID":
        return (total / (size * size)).astype(x.dtype)
    ones = jnp.ones_like(wide[:1, :, :, :1])
    return (total / _reduce_window(ones, 0.0, lax.add, size, stride, padding)).astype(x.dtype)


def global_average(x: jax.Array) -> jax.Array:
    """Returns float32[N, C], the mean over the image, summed in float32."""
    return x.astype(jnp.float32).mean(axis=(1, 2))


def flatten(x: jax.Array) -> jax.Array:
    """Returns float[N, H·W·C]."""
    return x.reshape(x.shape[0], -1)


def dropout(x: jax.Array, rate: float, *, train: bool, key: jax.Array | None) -> jax.Array:
    """Returns x with a fraction `rate` of entries zeroed and the others divided by 1 - rate.

    Reference:
      Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting",
      2014, in the inverted form: nothing happens in inference.
    """
    if not train or rate == 0:
        return x
    if key is None:
        raise ValueError("a network with dropout needs key= in training")
    keep = jax.random.bernoulli(key, 1 - rate, x.shape)
    return jnp.where(keep, x / (1 - rate), jnp.zeros_like(x))


def spatial(input_shape: Sequence[int], windows: Sequence[tuple[int, int, int]]) -> tuple[int, int]:
    """Returns (H, W) after windows of (size, stride, total padding), each rounded down.

    Raises ConfigError if the image is too small for them.
    """
    sides = []
    for side in input_shape[:2]:
        for size, stride, padding in windows:
            side = (side + padding - size) // stride + 1
            if side < 1:
                height, width = input_shape[:2]
                raise ConfigError(
                    f"input_shape: {height}×{width} images are too small for this network: "
                    f"nothing is left after a {size}×{size} window; use larger images"
                )
        sides.append(side)
    return tuple(sides)


def _padding(padding: Padding) -> str | list[tuple[int, int]]:
    """Returns lax's form: a name, or a list with (low, high) of each image axis."""
    if isinstance(padding, str | list):
        return padding
    return [padding if isinstance(padding, tuple) else (padding, padding)] * 2


def _reduce_window(x, start, function, size, stride, padding):
    """Returns lax.reduce_window over the two image axes."""
    padding = _padding(padding)
    if not isinstance(padding, str):
        padding = [(0, 0), *padding, (0, 0)]
    start = np.array(start, x.dtype)  # not traced, or lax does not see that it is the identity
    return lax.reduce_window(
        x, start, function, (1, size, size, 1), (1, stride, stride, 1), padding
    )
