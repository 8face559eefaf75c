"""Residual networks: the thin ones for small images, and ResNet-18/50 for 224 × 224.

Both are a stem, stages of residual blocks, a global average and a dense layer; `_network` below
puts them together, and each block is a pair of functions like the networks themselves.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from hcjax.errors import ConfigError, unknown_name
from hcjax.models import initial, layers, norm
from hcjax.models.network import Network, check_dtype


class Unit(NamedTuple):
    """A convolution (size × size, `inputs` -> `outputs`) and the BatchNorm after it."""

    name: str
    size: int
    inputs: int
    outputs: int
    stride: int


def resnet_small(
    *,
    num_classes: int = 10,
    input_shape: Sequence[int] = (32, 32, 3),
    dtype: str = "float32",
    depth: int = 20,
    width: int = 16,
    activation: str = "relu",
    zero_init: bool = False,
    axis_name: str | None = None,
    norm_momentum: float = 0.9,
) -> Network:
    """Returns the paper's residual network for 32×32 images: depth 6n + 2, widths 16, 32, 64.

    Shortcuts have no parameters (option A): where a stage halves the image, they take every
    second pixel and pad the new channels with zeros, after the old ones. On three-channel images
    with ten classes ResNet-20 has 269,722 parameters, 56 853,018, 110 1,727,962.

    Args:
      num_classes: K.
      input_shape: (H, W, C) of the images; any size from 4×4 up.
      dtype: compute dtype, "float32" or "bfloat16".
      depth: 6n + 2 with n >= 1 blocks of two convolutions per stage.
      width: channels of the first stage; the paper's 16.
      activation: "relu" or "prelu".
      zero_init: whether each block's last BatchNorm scale starts at 0, so that the block starts
        as its shortcut (Goyal et al., 2017, arXiv:1706.02677, section 5.1).
      axis_name: mapped axis that synchronises BatchNorm; None: per device.
      norm_momentum: weight of the old running statistics in [0, 1).

    Returns:
      Network with params "stem", "stage1_block1", …, "dense1", and running statistics as state.

    Raises:
      ConfigError: if an option is out of range.

    Reference:
      He et al., "Deep Residual Learning for Image Recognition", 2015, arXiv:1512.03385, section
      4.2.

    Example:
      >>> import jax
      >>> params, state = resnet_small(depth=8).init(jax.random.key(0))
      >>> sorted(params["stage1_block1"]), sorted(state["stem"]["norm"])
      (['conv1', 'conv2', 'norm1', 'norm2'], ['mean', 'variance'])
    """
    if depth < 8 or depth % 6 != 2:
        raise ConfigError(f"depth must be 6n + 2 with n >= 1 (8, 14, 20, …), got {depth}")
    layers.spatial(input_shape, [(3, 2, 2), (3, 2, 2)])
    blocks, inputs = {}, width
    for stage, outputs in enumerate((width, 2 * width, 4 * width), start=1):
        for n in range(1, (depth - 2) // 6 + 1):
            stride = 2 if stage > 1 and n == 1 else 1
            units = (Unit("1", 3, inputs, outputs, stride), Unit("2", 3, outputs, outputs, 1))
            blocks[f"stage{stage}_block{n}"] = units, None
            inputs = outputs
    stem = Unit("", 3, input_shape[2], width, 1)
    norms = {"zero_init": zero_init, "axis_name": axis_name, "norm_momentum": norm_momentum}
    return _network(stem, blocks, False, num_classes, dtype, activation, **norms)


def resnet(
    *,
    num_classes: int = 1000,
    input_shape: Sequence[int] = (224, 224, 3),
    dtype: str = "float32",
    stages: Sequence[int] = (3, 4, 6, 3),
    bottleneck: bool = True,
    width: int = 64,
    stride_in: str = "3x3",
    activation: str = "relu",
    zero_init: bool = False,
    axis_name: str | None = None,
    norm_momentum: float = 0.9,
) -> Network:
    """Returns the residual network for 224×224 images; ResNet-50 has 25,557,032 parameters.

    Shortcuts are the identity, or a 1×1 convolution with BatchNorm where the shape changes
    (option B). ResNet-18 is `stages=(2, 2, 2, 2), bottleneck=False`: 11,689,512 parameters.

    Args:
      num_classes: K.
      input_shape: (H, W, C) of the images; any size from 32×32 up.
      dtype: compute dtype, "float32" or "bfloat16".
      stages: number of blocks in each stage.
      bottleneck: blocks of 1×1, 3×3, 1×1 convolutions (the last four times wider) instead of two
        3×3.
      width: channels of the stem and of the first stage's 3×3 convolutions.
      stride_in: which convolution of a bottleneck block halves the image: "3x3", as in most
        libraries ("v1.5"), or "1x1", as in the paper. The parameters are the same.
      activation: "relu" or "prelu".
      zero_init: whether each block's last BatchNorm scale starts at 0 (Goyal et al., 2017,
        arXiv:1706.02677, section 5.1).
      axis_name: mapped axis that synchronises BatchNorm; None: per device.
      norm_momentum: weight of the old running statistics in [0, 1).

    Returns:
      Network with params "stem", "stage1_block1", …, "dense1", and running statistics as state.

    Raises:
      ConfigError: if an option is out of range or the images are too small.

    Reference:
      He et al., "Deep Residual Learning for Image Recognition", 2015, arXiv:1512.03385, table 1.
      Deviation: `stride_in="3x3"`.

    Example:
      >>> import jax
      >>> network = resnet(stages=(1, 1), width=8, num_classes=10, input_shape=(64, 64, 3))
      >>> params, _ = jax.eval_shape(network.init, jax.random.key(0))
      >>> params["stage2_block1"]["conv3"]["kernel"].shape
      (1, 1, 16, 64)
    """
    strides = {"1x1": (2, 1), "3x3": (1, 2)}
    if stride_in not in strides:
        raise ConfigError(unknown_name("stride_in", str(stride_in), strides))
    if not stages or min(stages) < 1:
        raise ConfigError(f"stages must be counts >= 1 of blocks, got {tuple(stages)}")
    layers.spatial(input_shape, [(7, 2, 6), (3, 2, 2)] + [(3, 2, 2)] * (len(stages) - 1))
    blocks, inputs = {}, width
    for stage, count in enumerate(stages, start=1):
        middle = width * 2 ** (stage - 1)
        outputs = 4 * middle if bottleneck else middle
        for n in range(1, count + 1):
            stride = 2 if stage > 1 and n == 1 else 1
            if bottleneck:
                first, second = strides[stride_in] if stride == 2 else (1, 1)
                units = (
                    Unit("1", 1, inputs, middle, first),
                    Unit("2", 3, middle, middle, second),
                    Unit("3", 1, middle, outputs, 1),
                )
            else:
                units = (Unit("1", 3, inputs, outputs, stride), Unit("2", 3, outputs, outputs, 1))
            changes = stride != 1 or inputs != outputs
            shortcut = Unit("_shortcut", 1, inputs, outputs, stride) if changes else None
            blocks[f"stage{stage}_block{n}"] = units, shortcut
            inputs = outputs
    stem = Unit("", 7, input_shape[2], width, 2)
    norms = {"zero_init": zero_init, "axis_name": axis_name, "norm_momentum": norm_momentum}
    return _network(stem, blocks, True, num_classes, dtype, activation, **norms)


def _network(
    stem, blocks, pool, num_classes, dtype, activation, *, zero_init, axis_name, norm_momentum
):
    """Returns the network: stem, blocks name -> (units, shortcut unit or None), average, dense."""
    dtype = check_dtype(dtype)
    layers.check_activation(activation)
    norm.check_momentum(norm_momentum)
    options = {"axis_name": axis_name, "momentum": norm_momentum}

    start, statistics = {}, {}
    start["stem"], statistics["stem"] = _unit_initial(stem, activation)
    for name, (units, shortcut) in blocks.items():
        start[name], statistics[name] = {}, {}
        for each in units + ((shortcut,) if shortcut else ()):
            scale = 0.0 if zero_init and each is units[-1] else 1.0
            follows = "identity" if each is shortcut else activation
            unit_params, unit_state = _unit_initial(each, follows, scale)
            start[name] |= unit_params
            statistics[name] |= unit_state
    start["dense1"] = initial.dense((units[-1].outputs, num_classes))

    def apply(params, state, images, *, train=False, key=None):
        del key  # nothing is random
        unit = functools.partial(_unit, train=train, **options)
        new = {}
        x, new["stem"] = unit(stem, params["stem"], state["stem"], images.astype(dtype))
        x = layers.activate(activation, params["stem"]["norm"], x)
        if pool:
            x = layers.max_pool(x, 3, 2, padding=1)
        for name, (units, shortcut) in blocks.items():
            block_params, block_state, new[name], y = params[name], state[name], {}, x
            for each in units:
                y, unit_state = unit(each, block_params, block_state, y)
                new[name] |= unit_state
                if each is not units[-1]:
                    y = layers.activate(activation, block_params[f"norm{each.name}"], y)
            if shortcut:
                x, unit_state = unit(shortcut, block_params, block_state, x)
                new[name] |= unit_state
            elif x.shape != y.shape:
                x = _shortcut_a(x, y.shape[3])
            x = layers.activate(activation, block_params[f"norm{units[-1].name}"], x + y)
        return layers.logits(params["dense1"], layers.global_average(x)), new

    return Network(initial.draw(start, statistics), apply)


def _unit_initial(unit, activation, scale=1.0):
    """Declares a unit before `activation`: ({"conv…", "norm…"}, {"norm…"})."""
    shape = (unit.size, unit.size, unit.inputs, unit.outputs)
    kernel, params, state = initial.normed_conv(shape, activation=activation, scale=scale)
    return {f"conv{unit.name}": kernel, f"norm{unit.name}": params}, {f"norm{unit.name}": state}


def _unit(unit, params, state, x, **options):
    """Returns the normalised convolution and {"norm…": new running statistics}."""
    padding = (unit.size - 1) // 2  # on both sides, as in the papers' Torch and Caffe code
    x = layers.conv(params[f"conv{unit.name}"], x, stride=unit.stride, padding=padding)
    name = f"norm{unit.name}"
    x, new = norm.batch_norm(params[name], state[name], x, **options)
    return x, {name: new}


def _shortcut_a(x, outputs):
    """Returns every second pixel of x, with zero channels appended up to `outputs`."""
    x = lax.slice(x, (0, 0, 0, 0), x.shape, (1, 2, 2, 1))
    return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0)] * 3 + [(0, outputs - x.shape[3], 0)])
