"""Network in Network: convolutions followed by 1×1 convolutions, and no dense layer."""

from __future__ import annotations

from collections.abc import Sequence

import jax

from hcjax.models import initial, layers
from hcjax.models.network import Network, check_dtype


def nin(
    *,
    num_classes: int = 10,
    input_shape: Sequence[int] = (32, 32, 3),
    dtype: str = "float32",
    filters: Sequence[Sequence[int]] = ((192, 160, 96), (192, 192, 192), (192, 192)),
    activation: str = "relu",
    dropout: float = 0.5,
) -> Network:
    """Returns Network in Network in the variant of the authors' CIFAR-10 code.

    Three blocks of one spatial convolution (5×5, 5×5, 3×3, stride 1, same size) and 1×1
    convolutions; after the first a 3×3 max-pool of stride 2, after the second a 3×3 average
    pool of stride 2, each followed by dropout; then the mean of each class map.
    966,986 parameters on three-channel images with ten classes.

    Args:
      num_classes: K, the channels of the last 1×1 convolution, which is added to the last block.
      input_shape: (H, W, C) of the images; any size from 4×4 up.
      dtype: compute dtype, "float32" or "bfloat16".
      filters: channels of each block's convolutions.
      activation: "relu" or "prelu", after every convolution but the last.
      dropout: rate after each of the two pools, in [0, 1).

    Returns:
      Network with params "block1_conv1", … and no state.

    Raises:
      ConfigError: if an option is out of range or the images are too small.

    Reference:
      Lin et al., "Network In Network", 2013, arXiv:1312.4400; widths of the authors' Caffe model
      for CIFAR-10. Deviations: He initialisation, and no relu on the class maps, whose logits
      could never be negative otherwise.

    Example:
      >>> params, _ = jax.eval_shape(nin().init, jax.random.key(0))
      >>> params["block3_conv3"]["kernel"].shape
      (1, 1, 192, 10)
    """
    dtype = check_dtype(dtype)
    layers.check_activation(activation)
    layers.check_rate("dropout", dropout)
    layers.spatial(input_shape, [(3, 2, 1)] * 2)
    blocks = [*filters[:-1], (*filters[-1], num_classes)]
    last = f"block3_conv{len(blocks[-1])}"
    start, inputs = {}, input_shape[2]
    for b, (size, block) in enumerate(zip((5, 5, 3), blocks, strict=True), start=1):
        for n, outputs in enumerate(block, start=1):
            name, side = f"block{b}_conv{n}", size if n == 1 else 1
            follows = "identity" if name == last else activation
            start[name] = initial.conv((side, side, inputs, outputs), activation=follows)
            inputs = outputs

    def apply(params, state, images, *, train=False, key=None):
        keys = (None, None) if key is None else jax.random.split(key)
        x = images.astype(dtype)
        for b, block in enumerate(blocks, start=1):
            for n in range(1, len(block) + 1):
                name = f"block{b}_conv{n}"
                x = layers.conv(params[name], x)
                x = x if name == last else layers.activate(activation, params[name], x)
            if b < 3:
                pool = layers.max_pool if b == 1 else layers.avg_pool
                x = pool(x, 3, 2, padding="SAME")
                x = layers.dropout(x, dropout, train=train, key=keys[b - 1])
        return layers.global_average(x), state

    return Network(initial.draw(start), apply)
