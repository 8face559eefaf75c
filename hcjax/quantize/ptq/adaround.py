"""`adaround`: learns from a layer's outputs whether to round each weight up or down.

Rounding to nearest minimises the error of each weight, not that of their sums. For each layer in
order, the choice is relaxed to a number in [0, 1] and trained to minimise the error of the layer's
output.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hcjax.errors import ConfigError
from hcjax.graph import interface
from hcjax.graph.constants import evaluate_constants
from hcjax.graph.model import Model, Op, live_ops, run
from hcjax.graph.ops import fixed_point
from hcjax.graph.ops.table import computes
from hcjax.quantize.ptq.bias_correction import (
    QuantizedLayer,
    dequantize_output,
    quantized_layers,
)

_STRETCH = (-0.1, 1.1)  # range of the rectified sigmoid before it is clipped to [0, 1]
_WARM_UP = 0.2  # fraction of the steps without regularization
_LAST_EXPONENT, _FIRST_EXPONENT = 2.0, 20.0  # β of the regularization


def adaround(
    model: Model,
    fake: Model,
    images: Any,
    *,
    key: jax.Array,
    steps: int = 1000,
    batch_size: int = 32,
    learning_rate: float = 1e-2,
    pull: float = 0.01,
) -> Model:
    """Returns a fake-quantized model whose kernels are rounded to minimise the error of outputs.

    For each layer in order: min over V of E ‖y - ỹ(h)‖² + λ Σ (1 - |2 h - 1|^β), with integers
    floor(w / s) + h, h = clip(1.2 sigmoid(V) - 0.1, 0, 1), ỹ computed from the inputs of the
    quantized network with earlier layers rounded already, and β falling from 20 to 2. A kernel then
    holds the exact values of the chosen integers. Rounding to nearest is kept where it is as good
    on these images.

    Args:
      model: the float model.
      fake: from `fake_quantize` of `model`.
      images: float array [N, ...], N >= 1; a few hundred.
      key: typed PRNG key, for the order of the images.
      steps: of Adam, for each layer, >= 1.
      batch_size: images of one step.
      learning_rate: Adam's.
      pull: λ, >= 0, for outputs normalised to a mean square of 1.

    Returns:
      `fake` with other kernels, which `int8` keeps. Biases, scales and exact zeros are unchanged. A
      kernel that several layers share is rounded for the first of them; a layer in float is
      unchanged.

    Raises:
      ConfigError: if `fake` is not from `fake_quantize` of this model, or there are no images.

    Reference:
      Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization", 2020,
      arXiv:2004.10568, equations 21 to 25. Deviations: outputs are compared before the activation
      function, and divided by their root mean square; zeros stay 0.

    Example:
      >>> from hcjax import calibrate, fake_quantize, trace
      >>> images = jnp.ones((8, 3))
      >>> params = {"w": jnp.array([[0.45], [0.3], [1.0]])}
      >>> model = trace(lambda p, x: x @ p["w"], params, images)
      >>> fake = fake_quantize(model, calibrate(model, images), bits=2, activation_bits=8)
      >>> fake.apply(fake.params, images)[0].tolist()  # 1.75 in float; rounded to nearest
      [1.0]
      >>> best = adaround(model, fake, images, key=jax.random.key(0), steps=100)
      >>> best.apply(best.params, images)[0].tolist()
      [2.0]
    """
    if steps < 1:
        raise ConfigError(f"steps must be >= 1, got {steps}")
    layers = quantized_layers(model, fake)
    batches = interface.batches(model.inputs, model.arrays(images), batch_size)
    producers = {op.output: op for op in fake.graph.ops}
    paths = {number: path for path, number in fake.graph.params.items()}
    _, constants, _ = evaluate_constants(fake)
    leaves = dict(fake.leaves(fake.params))
    done: set[str] = set()
    for layer in layers:
        op = producers[layer.output]
        side = next(i for i in (0, 1) if op.inputs[i] in constants)
        rounding = producers[op.inputs[side]]
        path = paths.get(rounding.inputs[0])
        if path is None or path in done:
            continue
        done.add(path)
        x = _activation(fake, leaves, batches, op.inputs[1 - side])
        y = _activation(model, model.leaves(model.params), batches, layer.original)
        output = _output_function(op, side, layer, constants)
        scale = _broadcastable(
            constants[rounding.inputs[1]], rounding.params["axis"], leaves[path].ndim
        )
        qmax = fixed_point.limits(rounding.params["bits"], signed=True)[1]
        key, subkey = jax.random.split(key)
        scaled = leaves[path].astype(jnp.float32) / scale
        schedule = {"steps": steps, "learning_rate": learning_rate, "pull": pull}
        channels = y.shape[layer.axis]
        integers = _learn_rounding(
            output, scaled, qmax, x, y, channels, subkey, batch_size, **schedule
        )
        leaves[path] = (integers * scale).astype(leaves[path].dtype)
    return fake.replace(params=leaves)


def _output_function(
    op: Op, side: int, layer: QuantizedLayer, constants: dict[int, Any]
) -> Callable:
    """Returns a function (integers of the kernel, input) -> output of a layer in real numbers."""
    compute = computes(op.kind, op.params | {"preferred_element_type": jnp.float32})

    def output(integers, x):
        x = x - layer.center if layer.center else x
        operands = (integers, x) if side == 0 else (x, integers)
        sums = {layer.output: compute(len(x), *operands)}
        return dequantize_output(layer._replace(offset=layer.rest), constants | sums)

    return output


def _broadcastable(scale: Any, axis: int | None, ndim: int) -> jax.Array:
    """Returns a kernel's scales in a shape that broadcasts to the kernel."""
    scale = jnp.asarray(scale)
    return scale if axis is None else scale.reshape([-1 if a == axis else 1 for a in range(ndim)])


def _activation(
    model: Model, leaves: dict[str, Any], batches: list[list[np.ndarray]], number: int
) -> np.ndarray:
    """Returns one activation of a graph for all batches."""
    ops = tuple(live_ops(model.graph.ops, [number]))
    apply = jax.jit(partial(run, model.graph._replace(ops=ops, outputs=(number,))))
    return np.concatenate([apply(leaves, batch)[0] for batch in batches])


def _learn_rounding(
    output: Callable,
    scaled: jax.Array,
    qmax: int,
    x: np.ndarray,
    y: np.ndarray,
    channels: int,
    key: jax.Array,
    batch_size: int,
    *,
    steps: int,
    learning_rate: float,
    pull: float,
) -> jax.Array:
    """Returns the integers, as float32, of a kernel divided by its scales."""
    low, high = _STRETCH
    fraction = scaled - jnp.floor(scaled)
    v = jax.scipy.special.logit((fraction - low) / (high - low))  # so that h(v) = fraction
    power = max(float(np.square(y, dtype=np.float64).mean()), float(np.finfo(np.float32).tiny))
    tx = optax.adam(learning_rate)
    state = tx.init(v)

    def round_by(h, scaled):
        integers = jnp.clip(jnp.floor(scaled) + h, -qmax, qmax)
        return jnp.where(scaled == 0, 0.0, integers)

    @jax.jit
    def error(integers, x, y):
        return jnp.square(output(integers, x) - y).mean() / power

    def loss(v, scaled, x, y, strength, exponent):
        h = jnp.clip(jax.nn.sigmoid(v) * (high - low) + low, 0, 1)
        regularization = 1 - jnp.abs(2 * h - 1) ** exponent
        return error(round_by(h, scaled), x, y) * channels + strength * regularization.sum()

    @jax.jit
    def step(v, state, *batch):
        updates, state = tx.update(jax.grad(loss)(v, *batch), state)
        return optax.apply_updates(v, updates), state

    order = jax.random.randint(key, (steps, min(batch_size, len(x))), 0, len(x))
    for i, batch in enumerate(np.asarray(order)):
        progress = max(i / steps - _WARM_UP, 0.0) / (1 - _WARM_UP)
        cosine = (_FIRST_EXPONENT - _LAST_EXPONENT) * (1 + math.cos(math.pi * progress)) / 2
        strength = pull if i >= _WARM_UP * steps else 0.0
        v, state = step(v, state, scaled, x[batch], y[batch], strength, _LAST_EXPONENT + cosine)

    def total_error(integers):
        starts = range(0, len(x), batch_size)
        means = [error(integers, x[i : i + batch_size], y[i : i + batch_size]) for i in starts]
        sizes = [len(x[i : i + batch_size]) for i in starts]
        return sum(float(e) * n for e, n in zip(means, sizes, strict=True))

    nearest, learned = jnp.clip(jnp.round(scaled), -qmax, qmax), round_by(v > 0, scaled)
    return learned if total_error(learned) < total_error(nearest) else nearest
