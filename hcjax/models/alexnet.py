"""AlexNet for ImageNet, and a variant of its shape for 32×32 images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from hcjax.models import initial, layers
from hcjax.models.network import Network, check_dtype


def alexnet(
    *,
    num_classes: int = 1000,
    input_shape: Sequence[int] = (224, 224, 3),
    dtype: str = "float32",
    filters: Sequence[int] = (96, 256, 384, 384, 256),
    hidden: Sequence[int] = (4096, 4096),
    groups: int = 2,
    response_norm: bool = True,
    activation: str = "relu",
    dropout: float = 0.5,
) -> Network:
    """Returns AlexNet in Caffe's one-tower variant with grouped convolutions.

    conv 96 11×11 / 4, norm, pool, conv 256 5×5 in two groups, norm, pool, conv 384, conv 384 and
    conv 256 3×3 (the last two in groups), pool, dense 4096, dense 4096, dense; pools are 3×3 of
    stride 2. 60,965,224 parameters (62,378,344 with `groups=1`).

    Args:
      num_classes: K.
      input_shape: (H, W, C) of the images, padded by 1 pixel before and 2 after, so that 224 is
        the 227 which the first layer's 55×55 map needs.
      dtype: compute dtype, "float32" or "bfloat16".
      filters: channels of the five convolutions.
      hidden: units of the two hidden dense layers.
      groups: of the second, fourth and fifth convolution: 2 as on the paper's two GPUs, or 1.
      response_norm: local response normalisation after the first two convolutions.
      activation: "relu" or "prelu".
      dropout: rate after each hidden dense layer, in [0, 1).

    Returns:
      Network with params "conv1" … "conv5", "dense1" … "dense3" and no state.

    Raises:
      ConfigError: if an option is out of range or the images are too small.

    Reference:
      Krizhevsky et al., "ImageNet Classification with Deep Convolutional Neural Networks", 2012;
      Caffe's bvlc_alexnet. Deviation: He initialisation.

    Example:
      >>> params, _ = jax.eval_shape(alexnet().init, jax.random.key(0))
      >>> params["conv2"]["kernel"].shape, params["dense1"]["kernel"].shape
      ((5, 5, 48, 256), (9216, 4096))
    """
    after = "norm+pool" if response_norm else "pool"
    return _network(
        # size, stride, padding on both sides, groups, what follows
        [
            (11, 4, (1, 2), 1, after),
            (5, 1, (2, 2), groups, after),
            (3, 1, (1, 1), 1, ""),
            (3, 1, (1, 1), groups, ""),
            (3, 1, (1, 1), groups, "pool"),
        ],
        pool_size=3,
        num_classes=num_classes,
        input_shape=input_shape,
        dtype=dtype,
        filters=filters,
        hidden=hidden,
        activation=activation,
        dropout=dropout,
    )


def alexnet32(
    *,
    num_classes: int = 10,
    input_shape: Sequence[int] = (32, 32, 3),
    dtype: str = "float32",
    filters: Sequence[int] = (64, 192, 384, 256, 256),
    hidden: Sequence[int] = (1024, 1024),
    activation: str = "relu",
    dropout: float = 0.5,
) -> Network:
    """Returns AlexNet's five convolutions and three dense layers, for small images.

    This project's variant: all kernels 3×3 of stride 1, 2×2 max-pools after the first, second
    and fifth convolution, no groups, no response normalisation, dense 1024, dense 1024, dense.
    7,506,762 parameters on 32×32×3 with ten classes; it takes 28×28×1 as well.

    Args:
      num_classes: K.
      input_shape: (H, W, C) of the images, 8×8 or more.
      dtype: compute dtype, "float32" or "bfloat16".
      filters: channels of the five convolutions.
      hidden: units of the two hidden dense layers.
      activation: "relu" or "prelu".
      dropout: rate after each hidden dense layer, in [0, 1).

    Returns:
      Network with params "conv1" … "conv5", "dense1" … "dense3" and no state.

    Raises:
      ConfigError: if an option is out of range or the images are too small.

    Reference:
      Widths of the convolutions: Krizhevsky, "One weird trick for parallelizing convolutional
      neural networks", 2014, arXiv:1404.5997.

    Example:
      >>> params, _ = jax.eval_shape(alexnet32().init, jax.random.key(0))
      >>> params["dense1"]["kernel"].shape
      (4096, 1024)
    """
    return _network(
        [(3, 1, (1, 1), 1, after) for after in ("pool", "pool", "", "", "pool")],
        pool_size=2,
        num_classes=num_classes,
        input_shape=input_shape,
        dtype=dtype,
        filters=filters,
        hidden=hidden,
        activation=activation,
        dropout=dropout,
    )


def response_norm(x: jax.Array, *, size: int = 5, k: float = 2.0, alpha: float = 1e-4) -> jax.Array:
    """Returns x / (k + alpha · sum of squares over `size` neighbouring channels)^0.75.

    Args:
      x: float[N, H, W, C].
      size: channels in the sum, fewer at both ends.
      k: the paper's 2 (Caffe has 1).
      alpha: the paper's 1e-4 times the sum (Caffe: times the mean over `size`).

    Returns:
      float[N, H, W, C].

    Reference:
      Krizhevsky et al., 2012, section 3.3, with its constants.

    Example:
      >>> float(response_norm(jnp.zeros((1, 1, 1, 3))).sum())
      0.0
    """
    padding = [(0, 0)] * 3 + [(size // 2, size // 2)]
    wide = x.astype(jnp.float32)  # alpha · total would vanish beside k in bfloat16
    total = lax.reduce_window(wide * wide, 0.0, lax.add, (1, 1, 1, size), (1, 1, 1, 1), padding)
    return (wide * (k + alpha * total) ** -0.75).astype(x.dtype)


def _network(
    convs, *, pool_size, num_classes, input_shape, dtype, filters, hidden, activation, dropout
):
    """Returns the network: convolutions (size, stride, padding, groups, after), dense layers."""
    dtype = check_dtype(dtype)
    layers.check_activation(activation)
    layers.check_rate("dropout", dropout)
    windows, start, inputs = [], {}, input_shape[2]
    for n, (conv, outputs) in enumerate(zip(convs, filters, strict=True), start=1):
        size, stride, padding, groups, after = conv
        windows.append((size, stride, sum(padding)))
        windows.extend([(pool_size, 2, 0)] if "pool" in after else [])
        shape = (size, size, inputs // groups, outputs)
        start[f"conv{n}"] = initial.conv(shape, activation=activation)
        inputs = outputs
    units = [math.prod(layers.spatial(input_shape, windows)) * inputs, *hidden, num_classes]
    dense = [f"dense{n}" for n in range(1, len(units))]
    for n, name in enumerate(dense):
        follows = "identity" if name == dense[-1] else activation
        start[name] = initial.dense(units[n : n + 2], activation=follows)

    def apply(params, state, images, *, train=False, key=None):
        x = images.astype(dtype)
        for n, (_, stride, padding, groups, after) in enumerate(convs, start=1):
            layer = params[f"conv{n}"]
            x = layers.conv(layer, x, stride=stride, padding=padding, groups=groups)
            x = layers.activate(activation, layer, x)
            x = response_norm(x) if "norm" in after else x
            x = layers.max_pool(x, pool_size, 2) if "pool" in after else x
        x = layers.flatten(x)
        for n, name in enumerate(dense[:-1]):
            x = layers.activate(activation, params[name], layers.dense(params[name], x))
            layer_key = None if key is None else jax.random.fold_in(key, n)
            x = layers.dropout(x, dropout, train=train, key=layer_key)
        return layers.logits(params[dense[-1]], x), state

    return Network(initial.draw(start), apply)
