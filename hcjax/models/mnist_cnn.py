"""Small networks for MNIST: the seed's, one that learns fast, and one that is cheap to attack."""

from __future__ import annotations

from collections.abc import Sequence

from hcjax.models import initial, layers, norm
from hcjax.models.network import Network, check_dtype


def seed_cnn(
    *,
    num_classes: int = 10,
    input_shape: Sequence[int] = (28, 28, 1),
    dtype: str = "float32",
    filters: int = 32,
    activation: str = "relu",
    dropout: float = 0.0,
) -> Network:
    """Returns conv `filters` 3×3 (no padding), activation, 2×2 max-pool, dense.

    With the defaults 320 + 54,090 = 54,410 parameters.

    Args:
      num_classes: K.
      input_shape: (H, W, C) of the images.
      dtype: compute dtype, "float32" or "bfloat16".
      filters: channels of the convolution.
      activation: "relu" or "prelu".
      dropout: rate before the dense layer, in [0, 1).

    Returns:
      Network with params "conv1", "dense1" and no state.

    Raises:
      ConfigError: if an option is out of range or the images are too small.

    Example:
      >>> import jax
      >>> params, _ = seed_cnn().init(jax.random.key(0))
      >>> params["dense1"]["kernel"].shape
      (5408, 10)
    """
    dtype = check_dtype(dtype)
    layers.check_activation(activation)
    layers.check_rate("dropout", dropout)
    height, width = layers.spatial(input_shape, [(3, 1, 0), (2, 2, 0)])

    start = {
        "conv1": initial.conv((3, 3, input_shape[2], filters), activation=activation),
        "dense1": initial.dense((height * width * filters, num_classes)),
    }

    def apply(params, state, images, *, train=False, key=None):
        x = layers.conv(params["conv1"], images.astype(dtype), padding="VALID")
        x = layers.activate(activation, params["conv1"], x)
        x = layers.flatten(layers.max_pool(x, 2, 2))
        x = layers.dropout(x, dropout, train=train, key=key)
        return layers.logits(params["dense1"], x), state

    return Network(initial.draw(start), apply)


def fast_cnn(
    *,
    num_classes: int = 10,
    input_shape: Sequence[int] = (28, 28, 1),
    dtype: str = "float32",
    filters: Sequence[int] = (16, 32),
    hidden: int = 64,
    activation: str = "relu",
    dropout: float = 0.0,
    axis_name: str | None = None,
    norm_momentum: float = 0.9,
) -> Network:
    """Returns conv 5×5 / 2, norm; conv 3×3, 2×2 max-pool, norm; dense `hidden`; dense.

    No padding; an activation after each norm and after the hidden layer. The first stride and a
    pool before the norm keep activations small: with the defaults 57,018 parameters and
    570,240 MACs an image.

    Args:
      num_classes: K.
      input_shape: (H, W, C) of the images, 13×13 or more.
      dtype: compute dtype, "float32" or "bfloat16".
      filters: channels of the two convolutions.
      hidden: units of the first dense layer.
      activation: "relu" or "prelu".
      dropout: rate after the first dense layer, in [0, 1).
      axis_name: mapped axis that synchronises BatchNorm; None: per device.
      norm_momentum: weight of the old running statistics in [0, 1).

    Returns:
      Network with params "conv1", "norm1", "conv2", "norm2", "dense1", "dense2", and running
      statistics as state.

    Raises:
      ConfigError: if an option is out of range or the images are too small.

    Example:
      >>> import jax
      >>> params, state = fast_cnn().init(jax.random.key(0))
      >>> params["dense1"]["kernel"].shape, sorted(state)
      ((800, 64), ['norm1', 'norm2'])
    """
    dtype = check_dtype(dtype)
    layers.check_activation(activation)
    layers.check_rate("dropout", dropout)
    norm.check_momentum(norm_momentum)
    convs = ((5, 2), (3, 1))  # (size, stride)
    height, width = layers.spatial(
        input_shape, [(size, stride, 0) for size, stride in convs] + [(2, 2, 0)]
    )
    options = {"axis_name": axis_name, "momentum": norm_momentum}

    start, statistics, inputs = {}, {}, input_shape[2]
    for n, ((size, _), outputs) in enumerate(zip(convs, filters, strict=True), start=1):
        shape = (size, size, inputs, outputs)
        start[f"conv{n}"], start[f"norm{n}"], statistics[f"norm{n}"] = initial.normed_conv(
            shape, activation=activation
        )
        inputs = outputs
    start["dense1"] = initial.dense((height * width * inputs, hidden), activation=activation)
    start["dense2"] = initial.dense((hidden, num_classes))

    def apply(params, state, images, *, train=False, key=None):
        x, new = images.astype(dtype), {}
        for n, (_, stride) in enumerate(convs, start=1):
            x = layers.conv(params[f"conv{n}"], x, stride=stride, padding="VALID")
            x = layers.max_pool(x, 2, 2) if n == 2 else x
            name = f"norm{n}"
            x, new[name] = norm.batch_norm(params[name], state[name], x, train=train, **options)
            x = layers.activate(activation, params[name], x)
        x = layers.dense(params["dense1"], layers.flatten(x))
        x = layers.activate(activation, params["dense1"], x)
        x = layers.dropout(x, dropout, train=train, key=key)
        return layers.logits(params["dense2"], x), new

    return Network(initial.draw(start, statistics), apply)


def strided_cnn(
    *,
    num_classes: int = 10,
    input_shape: Sequence[int] = (28, 28, 1),
    dtype: str = "float32",
    filters: Sequence[int] = (16, 32),
    hidden: int = 100,
    activation: str = "relu",
    dropout: float = 0.0,
) -> Network:
    """Returns conv 4×4 / 2 for each of `filters`; dense `hidden`; dense. No norm, no pool.

    With the defaults 166,406 parameters and 610,528 MACs an image: small and smooth enough to be
    attacked at every step of a training, or bounded.

    Args:
      num_classes: K.
      input_shape: (H, W, C) of the images.
      dtype: compute dtype, "float32" or "bfloat16".
      filters: channels of each convolution.
      hidden: units of the first dense layer.
      activation: "relu" or "prelu", after all layers but the last.
      dropout: rate before the last layer, in [0, 1).

    Returns:
      Network with params "conv1", ..., "dense1", "dense2" and no state.

    Raises:
      ConfigError: if an option is out of range.

    Reference:
      Wong, Rice and Kolter, "Fast is better than free: Revisiting adversarial training", 2020,
      arXiv:2001.03994, appendix A.

    Example:
      >>> import jax
      >>> params, _ = strided_cnn().init(jax.random.key(0))
      >>> params["dense1"]["kernel"].shape
      (1568, 100)
    """
    dtype = check_dtype(dtype)
    layers.check_activation(activation)
    layers.check_rate("dropout", dropout)
    height, width, inputs = input_shape
    start = {}
    for n, outputs in enumerate(filters, start=1):
        start[f"conv{n}"] = initial.conv((4, 4, inputs, outputs), activation=activation)
        height, width, inputs = -(-height // 2), -(-width // 2), outputs
    start["dense1"] = initial.dense((height * width * inputs, hidden), activation=activation)
    start["dense2"] = initial.dense((hidden, num_classes))

    def apply(params, state, images, *, train=False, key=None):
        x = images.astype(dtype)
        for n in range(1, len(filters) + 1):
            x = layers.conv(params[f"conv{n}"], x, stride=2)
            x = layers.activate(activation, params[f"conv{n}"], x)
        x = layers.dense(params["dense1"], layers.flatten(x))
        x = layers.activate(activation, params["dense1"], x)
        x = layers.dropout(x, dropout, train=train, key=key)
        return layers.logits(params["dense2"], x), state

    return Network(initial.draw(start), apply)
