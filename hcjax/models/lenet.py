"""The LeNet family: LeNet-300-100, LeNet-5 as in Caffe, and the LeNet-5 of 1998."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax

from hcjax.errors import ConfigError, unknown_name
from hcjax.models import initial, layers
from hcjax.models.network import Network, check_dtype


def lenet_300_100(
    *,
    num_classes: int = 10,
    input_shape: Sequence[int] = (28, 28, 1),
    dtype: str = "float32",
    hidden: Sequence[int] = (300, 100),
    activation: str = "relu",
    dropout: float = 0.0,
) -> Network:
    """Returns a fully connected network: 784-300-100-10 has 266,610 parameters.

    Args:
      num_classes: K.
      input_shape: (H, W, C) of the images.
      dtype: compute dtype, "float32" or "bfloat16".
      hidden: units of each hidden layer.
      activation: "relu" or "prelu".
      dropout: rate after each hidden layer, in [0, 1).

    Returns:
      Network with params "dense1", "dense2", … and no state.

    Raises:
      ConfigError: if an option is out of range.

    Reference:
      LeCun et al., "Gradient-Based Learning Applied to Document Recognition", 1998, section
      III.C. Deviation: relu and softmax, as in the pruning literature, for scaled tanh and RBF.

    Example:
      >>> params, _ = lenet_300_100().init(jax.random.key(0))
      >>> sorted(params), params["dense2"]["kernel"].shape
      (['dense1', 'dense2', 'dense3'], (300, 100))
    """
    dtype = check_dtype(dtype)
    layers.check_activation(activation)
    layers.check_rate("dropout", dropout)
    sizes = [math.prod(input_shape), *hidden, num_classes]
    last = len(sizes) - 1

    start = {}
    for n in range(1, last + 1):
        follows = "identity" if n == last else activation
        start[f"dense{n}"] = initial.dense(sizes[n - 1 : n + 1], activation=follows)

    def apply(params, state, images, *, train=False, key=None):
        x = layers.flatten(images.astype(dtype))
        for n in range(1, last):
            x = layers.dense(params[f"dense{n}"], x)
            x = layers.activate(activation, params[f"dense{n}"], x)
            layer_key = None if key is None else jax.random.fold_in(key, n)
            x = layers.dropout(x, dropout, train=train, key=layer_key)
        return layers.logits(params[f"dense{last}"], x), state

    return Network(initial.draw(start), apply)


def lenet5(
    *,
    num_classes: int = 10,
    input_shape: Sequence[int] = (28, 28, 1),
    dtype: str = "float32",
    filters: Sequence[int] = (20, 50),
    hidden: int = 500,
    activation: str = "identity",
    dropout: float = 0.0,
) -> Network:
    """Returns LeNet-5 as in Caffe: conv 20 5×5, pool, conv 50 5×5, pool, dense 500, relu, dense.

    No padding, 2×2 max-pools: 520 + 25,050 + 400,500 + 5,010 = 431,080 parameters.

    Args:
      num_classes: K.
      input_shape: (H, W, C) of the images.
      dtype: compute dtype, "float32" or "bfloat16".
      filters: channels of the two convolutions.
      hidden: units of the first dense layer.
      activation: after each convolution: "identity" as in Caffe's lenet.prototxt, whose only
        nonlinearities are the pools and one relu; "relu"; or "prelu" (which then also stands
        after the first dense layer, where the others have relu).
      dropout: rate after the first dense layer, in [0, 1).

    Returns:
      Network with params "conv1", "conv2", "dense1", "dense2" and no state.

    Raises:
      ConfigError: if an option is out of range or the images are too small.

    Reference:
      Jia et al., "Caffe: Convolutional Architecture for Fast Feature Embedding", 2014,
      arXiv:1408.5093, examples/mnist/lenet.prototxt. Deviation: Gaussian weights of the same
      variance as Caffe's uniform "xavier", 1 / fan_in, before a linear activation, and He's
      2 / fan_in before a relu.

    Example:
      >>> params, _ = lenet5().init(jax.random.key(0))
      >>> params["dense1"]["kernel"].shape
      (800, 500)
    """
    dtype = check_dtype(dtype)
    layers.check_activation(activation, ("identity", "relu", "prelu"))
    layers.check_rate("dropout", dropout)
    height, width = layers.spatial(input_shape, [(5, 1, 0), (2, 2, 0)] * 2)
    after_dense = "prelu" if activation == "prelu" else "relu"
    first, second = filters

    start = {
        "conv1": initial.conv((5, 5, input_shape[2], first), activation=activation),
        "conv2": initial.conv((5, 5, first, second), activation=activation),
        "dense1": initial.dense((height * width * second, hidden), activation=after_dense),
        "dense2": initial.dense((hidden, num_classes)),
    }

    def apply(params, state, images, *, train=False, key=None):
        x = images.astype(dtype)
        for name in ("conv1", "conv2"):
            x = layers.conv(params[name], x, padding="VALID")
            x = layers.max_pool(layers.activate(activation, params[name], x), 2, 2)
        x = layers.dense(params["dense1"], layers.flatten(x))
        x = layers.activate(after_dense, params["dense1"], x)
        x = layers.dropout(x, dropout, train=train, key=key)
        return layers.logits(params["dense2"], x), state

    return Network(initial.draw(start), apply)


def lenet5_1998(
    *,
    num_classes: int = 10,
    input_shape: Sequence[int] = (28, 28, 1),
    dtype: str = "float32",
    activation: str = "tanh",
    pool: str = "average",
    dropout: float = 0.0,
) -> Network:
    """Returns LeNet-5 of 1998 in its fully connected reading: 6-16-120-84-10.

    Images smaller than 32×32 are padded to it with zeros, in normalised units the mean grey.
    156 + 2,416 + 48,120 + 10,164 + 850 = 61,706 parameters.

    Args:
      num_classes: K.
      input_shape: (H, W, C) of the images.
      dtype: compute dtype, "float32" or "bfloat16".
      activation: after every layer but the last: "tanh" (1.7159 tanh(2x/3), the paper's),
        "relu" or "prelu".
      pool: "average" (the paper's, without its trainable scale and bias) or "max"; 2×2.
      dropout: rate after each hidden dense layer, in [0, 1).

    Returns:
      Network with params "conv1", "conv2", "dense1" (the paper's C5), "dense2" (F6), "dense3"
      and no state.

    Raises:
      ConfigError: if an option is out of range or the images are too small.

    Reference:
      LeCun et al., "Gradient-Based Learning Applied to Document Recognition", 1998, section
      II.B. Deviations: C3 sees all six maps of S2 instead of the paper's table I, pools have no
      parameters, and the output is a dense layer with softmax instead of RBF units.

    Example:
      >>> params, _ = lenet5_1998().init(jax.random.key(0))
      >>> params["conv2"]["kernel"].shape, params["dense1"]["kernel"].shape
      ((5, 5, 6, 16), (400, 120))
    """
    dtype = check_dtype(dtype)
    layers.check_activation(activation, ("tanh", "relu", "prelu"))
    layers.check_rate("dropout", dropout)
    pools = {"average": layers.avg_pool, "max": layers.max_pool}
    if pool not in pools:
        raise ConfigError(unknown_name("pool", str(pool), pools))
    missing = [max(0, 32 - side) for side in input_shape[:2]]
    padding = [(m // 2, m - m // 2) for m in missing]
    padded = [side + m for side, m in zip(input_shape, missing, strict=False)]
    height, width = layers.spatial(padded, [(5, 1, 0), (2, 2, 0)] * 2)

    start = {
        "conv1": initial.conv((5, 5, input_shape[2], 6), activation=activation),
        "conv2": initial.conv((5, 5, 6, 16), activation=activation),
        "dense1": initial.dense((height * width * 16, 120), activation=activation),
        "dense2": initial.dense((120, 84), activation=activation),
        "dense3": initial.dense((84, num_classes)),
    }

    def apply(params, state, images, *, train=False, key=None):
        x = images.astype(dtype)
        for name, border in (("conv1", padding), ("conv2", "VALID")):
            x = layers.conv(params[name], x, padding=border)
            x = pools[pool](layers.activate(activation, params[name], x), 2, 2)
        x = layers.flatten(x)
        for n in (1, 2):
            x = layers.dense(params[f"dense{n}"], x)
            x = layers.activate(activation, params[f"dense{n}"], x)
            layer_key = None if key is None else jax.random.fold_in(key, n)
            x = layers.dropout(x, dropout, train=train, key=layer_key)
        return layers.logits(params["dense3"], x), state

    return Network(initial.draw(start), apply)
