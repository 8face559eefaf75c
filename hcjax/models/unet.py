"""A small U-Net: a class for every pixel of an image, from what is near it and far from it."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from hcjax.errors import ConfigError
from hcjax.models import initial, layers, norm
from hcjax.models.network import Network, check_dtype


def unet(
    *,
    num_classes: int = 2,
    input_shape: Sequence[int] = (40, 40, 3),
    dtype: str = "float32",
    filters: Sequence[int] = (8, 24, 40, 48),
    activation: str = "relu",
    axis_name: str | None = None,
    norm_momentum: float = 0.9,
) -> Network:
    """Returns a U-Net of any number of levels, each half as wide as the one before.

    Down: a 3×3 convolution at each level, the first of stride 1, the others of stride 2, and a
    second one below the first level. Up: the level below, enlarged by repeating its pixels, beside
    the level's own; a 1×1 convolution mixes the two, and a 3×3 follows. Each convolution has
    BatchNorm and `activation`; a 1×1 convolution gives the logits. As the first level has few
    channels, most of the work is done at half the image's side and below.

    Args:
      num_classes: K.
      input_shape: (H, W, C); H and W must be divisible by 2 as often as there are levels below the
        first.
      dtype: compute dtype, "float32" or "bfloat16".
      filters: channels of each level, at least two levels.
      activation: "relu" or "prelu".
      axis_name: mapped axis that synchronises BatchNorm; None: per device.
      norm_momentum: weight of the old running statistics in [0, 1).

    Returns:
      Network whose logits are float32[N, H, W, K], with params "down1", "down2_1", …, "up1_mix",
      "up1", …, "classes".

    Raises:
      ConfigError: if an option is out of range or the images cannot be halved so often.

    Reference:
      Ronneberger, Fischer, Brox, "U-Net", 2015, arXiv:1505.04597. Deviations: padded convolutions
      with BatchNorm, strides instead of pooling, repeated pixels and a 1×1 convolution instead of
      a transposed convolution, and one 3×3 convolution on the way up.

    Example:
      >>> network = unet(filters=(4, 8))
      >>> params, state = network.init(jax.random.key(0))
      >>> network.apply(params, state, jnp.zeros((1, 40, 40, 3)))[0].shape
      (1, 40, 40, 2)
    """
    dtype = check_dtype(dtype)
    layers.check_activation(activation)
    norm.check_momentum(norm_momentum)
    filters = tuple(filters)
    if len(filters) < 2 or min(filters) < 1:
        raise ConfigError(f"filters must be counts >= 1 of at least two levels, got {filters}")
    height, width, channels = input_shape
    times = 2 ** (len(filters) - 1)
    if height % times or width % times:
        raise ConfigError(
            f"input_shape: {height}×{width} images cannot be halved {len(filters) - 1} times: "
            f"make both sides multiples of {times}, or give {len(filters)} levels fewer filters"
        )
    start, statistics = {}, {}

    def declare(name, size, inputs, outputs):
        kernel, params, state = initial.normed_conv(
            (size, size, inputs, outputs), activation=activation
        )
        start[name], statistics[name] = {"conv": kernel, "norm": params}, {"norm": state}

    declare("down1", 3, channels, filters[0])
    for level, (inputs, outputs) in enumerate(itertools.pairwise(filters), start=2):
        declare(f"down{level}_1", 3, inputs, outputs)
        declare(f"down{level}_2", 3, outputs, outputs)
    for level in range(len(filters) - 1, 0, -1):
        own = filters[level - 1]
        declare(f"up{level}_mix", 1, own + filters[level], own)
        declare(f"up{level}", 3, own, own)
    start["classes"] = initial.conv((1, 1, filters[0], num_classes))
    options = {"axis_name": axis_name, "momentum": norm_momentum}

    def apply(params, state, images, *, train=False, key=None):
        del key  # nothing is random
        new = {}
        unit = functools.partial(_unit, params, state, new, activation, train=train, **options)
        x = unit("down1", images.astype(dtype))
        kept = []
        for level in range(2, len(filters) + 1):
            kept.append(x)
            x = unit(f"down{level}_2", unit(f"down{level}_1", x, stride=2))
        for level in range(len(filters) - 1, 0, -1):
            both = jnp.concatenate([_enlarged(x), kept.pop()], -1)
            x = unit(f"up{level}", unit(f"up{level}_mix", both))
        return layers.conv(params["classes"], x.astype(jnp.float32)), new

    return Network(initial.draw(start, statistics), apply)


def _unit(params, state, new, activation, name, x, *, stride=1, **options):
    """Returns the layer's result; its new running statistics are put into `new`."""
    own = params[name]
    padding = (own["conv"]["kernel"].shape[0] - 1) // 2
    x = layers.conv(own["conv"], x, stride=stride, padding=padding)
    x, statistics = norm.batch_norm(own["norm"], state[name]["norm"], x, **options)
    new[name] = {"norm": statistics}
    return layers.activate(activation, own["norm"], x)


def _enlarged(x: jax.Array) -> jax.Array:
    """Returns float[N, 2 H, 2 W, C]: every pixel becomes four."""
    n, height, width, channels = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None], (n, height, 2, width, 2, channels))
    return x.reshape(n, 2 * height, 2 * width, channels)
