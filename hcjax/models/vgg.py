"""VGG for small images: blocks of 3×3 convolutions with pools between them."""

from __future__ import annotations

from collections.abc import Sequence

from hcjax.errors import ConfigError
from hcjax.models import initial, layers, norm
from hcjax.models.network import Network, check_dtype


def vgg(
    *,
    num_classes: int = 10,
    input_shape: Sequence[int] = (32, 32, 3),
    dtype: str = "float32",
    filters: Sequence[Sequence[int]] = ((64, 64), (128, 128), (256, 256, 256)),
    activation: str = "relu",
    dropout: float = 0.0,
    axis_name: str | None = None,
    norm_momentum: float = 0.9,
) -> Network:
    """Returns blocks of 3×3 convolutions, 2×2 max-pools between them, and a dense layer.

    Each convolution keeps the size; BatchNorm and an activation follow it. After the last block the
    mean over the image. 1,739,210 parameters on three-channel images with ten classes.

    Args:
      num_classes: K.
      input_shape: (H, W, C) of the images, each side 2**(blocks - 1) or more.
      dtype: compute dtype, "float32" or "bfloat16".
      filters: channels of each block's convolutions, one sequence for each block.
      activation: "relu" or "prelu".
      dropout: rate before the dense layer, in [0, 1).
      axis_name: mapped axis that synchronises BatchNorm; None: per device.
      norm_momentum: weight of the old running statistics in [0, 1).

    Returns:
      Network with params "block1_conv1", "block1_norm1", …, "dense1", and running statistics as
      state.

    Raises:
      ConfigError: if an option is out of range or the images are too small.

    Reference:
      Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition",
      2014, arXiv:1409.1556, section 2.1. Deviations: BatchNorm; three blocks for small images; the
      mean over the image and one dense layer instead of three.

    Example:
      >>> import jax
      >>> params, state = vgg(filters=((4, 4), (8,))).init(jax.random.key(0))
      >>> params["block2_conv1"]["kernel"].shape, sorted(state)
      ((3, 3, 4, 8), ['block1_norm1', 'block1_norm2', 'block2_norm1'])
    """
    dtype = check_dtype(dtype)
    layers.check_activation(activation)
    layers.check_rate("dropout", dropout)
    norm.check_momentum(norm_momentum)
    if not filters or not all(isinstance(block, Sequence) and block for block in filters):
        raise ConfigError(f"filters must be channels for each block, ((8, 8), …), got {filters}")
    layers.spatial(input_shape, [(2, 2, 0)] * (len(filters) - 1))
    options = {"axis_name": axis_name, "momentum": norm_momentum}

    start, statistics, inputs = {}, {}, input_shape[2]
    blocks = []  # names of each block's convolutions and of the norms behind them
    for b, sizes in enumerate(filters, start=1):
        blocks.append(
            [(f"block{b}_conv{n}", f"block{b}_norm{n}") for n in range(1, len(sizes) + 1)]
        )
        for (conv, unit), outputs in zip(blocks[-1], sizes, strict=True):
            shape = (3, 3, inputs, outputs)
            start[conv], start[unit], statistics[unit] = initial.normed_conv(
                shape, activation=activation
            )
            inputs = outputs
    start["dense1"] = initial.dense((inputs, num_classes))

    def apply(params, state, images, *, train=False, key=None):
        x, new = images.astype(dtype), {}
        for block in blocks:
            x = x if block is blocks[0] else layers.max_pool(x, 2, 2)
            for conv, unit in block:
                x = layers.conv(params[conv], x)
                x, new[unit] = norm.batch_norm(params[unit], state[unit], x, train=train, **options)
                x = layers.activate(activation, params[unit], x)
        x = layers.dropout(layers.global_average(x), dropout, train=train, key=key)
        return layers.logits(params["dense1"], x), new

    return Network(initial.draw(start, statistics), apply)
