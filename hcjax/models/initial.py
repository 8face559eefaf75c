"""Initial parameters: a network declares them as data, and `draw` draws all of them at once.

One random vector for the whole network, cut into kernels, compiles in about a second; a draw per
layer took XLA 50 seconds for a ResNet-20 on two CPU cores.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

PRELU_SLOPE = 0.25  # the initial slope of Delving Deep into Rectifiers, section 2.1
# The slope that stands for each activation in He's rule; identity (1) makes it 1 / fan_in.
SLOPES = {"relu": 0.0, "prelu": PRELU_SLOPE, "identity": 1.0, "tanh": 1.0}


@dataclasses.dataclass(frozen=True)
class Initial:
    """A parameter float32[shape] that starts as value + std · Gaussian noise."""

    shape: tuple[int, ...]
    value: float = 0.0
    std: float = 0.0


def he_std(shape: Sequence[int], activation: str) -> float:
    """Returns the standard deviation that keeps the signal's variance through an activation.

    std = sqrt(2 / ((1 + a²) fan_in)),  a = 0 for relu, 0.25 for PReLU, 1 for linear layers.

    Args:
      shape: kernel shape [..., I, O]; fan_in is the product of all sizes but the last.
      activation: of the layer's output, a key of `SLOPES`.

    Returns:
      float > 0.

    Reference:
      He et al., "Delving Deep into Rectifiers", 2015, arXiv:1502.01852, eq. 10 and 15.

    Example:
      >>> he_std((5, 5, 2, 7), "relu"), he_std((100, 7), "identity")
      (0.2, 0.1)
    """
    return math.sqrt(2 / ((1 + SLOPES[activation] ** 2) * math.prod(shape[:-1])))


def conv(
    shape: Sequence[int], *, activation: str = "identity", bias: bool = True
) -> dict[str, Initial]:
    """Declares a convolution: kernel [H, W, I, O] by He's rule, bias 0, PReLU slopes.

    `activation` is applied to the result by `layers.activate`.
    """
    outputs = shape[-1]
    params = {"kernel": Initial(tuple(shape), std=he_std(shape, activation))}
    if bias:
        params["bias"] = Initial((outputs,))
    return params | slope(outputs, activation)


dense = conv  # a dense kernel [I, O] follows the same rule


def batch_norm(
    channels: int, *, activation: str = "identity", scale: float = 1.0
) -> tuple[dict[str, Initial], dict[str, Initial]]:
    """Declares a BatchNorm's (params, state): scale and bias, mean 0 and variance 1."""
    params = {"scale": Initial((channels,), scale), "bias": Initial((channels,))}
    state = {"mean": Initial((channels,)), "variance": Initial((channels,), 1.0)}
    return params | slope(channels, activation), state


def normed_conv(
    shape: Sequence[int], *, activation: str = "identity", scale: float = 1.0
) -> tuple[dict[str, Initial], dict[str, Initial], dict[str, Initial]]:
    """Declares (convolution without bias, BatchNorm's params, its state).

    `activation` follows the BatchNorm, which therefore holds PReLU's slopes.
    """
    kernel = {"kernel": Initial(tuple(shape), std=he_std(shape, activation))}
    return kernel, *batch_norm(shape[-1], activation=activation, scale=scale)


def slope(channels: int, activation: str) -> dict[str, Initial]:
    """Returns {"slope": …} for PReLU, {} for any other activation."""
    return {"slope": Initial((channels,), PRELU_SLOPE)} if activation == "prelu" else {}


def draw(params: Mapping, state: Mapping | None = None) -> Callable[[jax.Array], tuple[Any, Any]]:
    """Returns a network's init: a jitted function of a key.

    Args:
      params: nested dictionaries of `Initial`.
      state: the same for the running statistics; nothing random.

    Returns:
      init(key) -> (params, state), both as nested dictionaries of float32 arrays.

    Note:
      The numbers depend on the key and on all layers: one more layer changes all of them.

    Example:
      >>> init = draw({"dense1": dense((4, 2))})
      >>> jax.tree.map(jnp.shape, init(jax.random.key(0)))
      ({'dense1': {'bias': (2,), 'kernel': (4, 2)}}, {})
    """
    leaves, structure = jax.tree.flatten((dict(params), dict(state or {})))
    sizes = [math.prod(leaf.shape) if leaf.std else 0 for leaf in leaves]

    @jax.jit
    def init(key):
        noise = jax.random.normal(key, (sum(sizes),), jnp.float32)
        noise = jax.lax.optimization_barrier(noise)  # else XLA copies the generator per kernel
        out, start = [], 0
        for leaf, size in zip(leaves, sizes, strict=True):
            array = jnp.full(leaf.shape, leaf.value, jnp.float32)
            if size:
                array += leaf.std * noise[start : start + size].reshape(leaf.shape)
            out.append(array)
            start += size
        return structure.unflatten(out)

    return init
