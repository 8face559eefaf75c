"""`adaround`: whether each weight is rounded up or down, learned from a layer's outputs.

Rounding to the nearest is best for each weight alone, not for their sum. Layer by layer, the choice
is relaxed to a number between 0 and 1 and trained until what the layer gives is nearest to what it
gave in float.
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
from hcjax.graph.constants import evaluate_constants
from hcjax.graph.model import Model, Op, live_ops, run
from hcjax.graph.ops import fixed_point
from hcjax.graph.ops.table import computes
from hcjax.quantize.ptq.bias_correction import Placed, matched, real

_STRETCH = (-0.1, 1.1)  # what the sigmoid is stretched to before it is clipped to [0, 1]
_WARM = 0.2  # part of the steps without a pull towards 0 and 1
_SHARP, _BLUNT = 2.0, 20.0  # exponents of the pull, last and first


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
    """Returns a fake-quantized model whose kernels are rounded so that layers keep their outputs.

    For each layer, in order: min over V of E ‖y - ỹ(h)‖² + λ Σ (1 - |2 h - 1|^β), with integers
    floor(w / s) + h, h = clip(1.2 sigmoid(V) - 0.1, 0, 1), ỹ from inputs that the layers before
    give as they are rounded by then, and β from 20 to 2. Kernels then stand in the middle of the
    integer that was chosen; where nearest is as good on these images, it stays.

    Args:
      model: what was quantized.
      fake: from `fake_quantize` of it.
      images: float array [N, ...], N >= 1; a few hundred.
      key: typed PRNG key, for the order of the images.
      steps: of Adam, for each layer, >= 1.
      batch_size: images of one step.
      learning_rate: Adam's.
      pull: λ, >= 0, where the outputs' mean square is 1.

    Returns:
      `fake` with other kernels; `int8` of it has them too. Biases, step sizes and exact zeros stay.
      A kernel that several layers share is rounded for the first of them; a layer that stays in
      float is left as it is.

    Raises:
      ConfigError: if `fake` is not from `fake_quantize` of this model, or there are no images.

    Reference:
      Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization", 2020,
      arXiv:2004.10568, equations 21 to 25. Deviations: outputs are compared before the activation
      function, and divided by their root mean square; zeros stay.

    Example:
      >>> from hcjax import calibrate, fake_quantize, trace
      >>> images = jnp.ones((8, 3))
      >>> params = {"w": jnp.array([[0.45], [0.3], [1.0]])}
      >>> model = trace(lambda p, x: x @ p["w"], params, images)
      >>> fake = fake_quantize(model, calibrate(model, images), bits=2, activation_bits=8)
      >>> fake.apply(fake.params, images)[0].tolist()  # of 1.75: each to the nearest
      [1.0]
      >>> best = adaround(model, fake, images, key=jax.random.key(0), steps=100)
      >>> best.apply(best.params, images)[0].tolist()
      [2.0]
    """
    if steps < 1:
        raise ConfigError(f"steps must be >= 1, got {steps}")
    found = matched(model, fake)
    images = np.asarray(images)
    if not len(images):
        raise ConfigError("no images to round with")
    made = {op.output: op for op in fake.graph.ops}
    paths = {number: path for path, number in fake.graph.params.items()}
    _, known, _ = evaluate_constants(fake)
    leaves = dict(fake.leaves(fake.params))
    done: set[str] = set()
    for layer in found:
        op = made[layer.output]
        side = next(i for i in (0, 1) if op.inputs[i] in known)
        rounding = made[op.inputs[side]]
        path = paths.get(rounding.inputs[0])
        if path is None or path in done:
            continue
        done.add(path)
        x = _values(fake, leaves, images, op.inputs[1 - side], batch_size)
        y = _values(model, model.leaves(model.params), images, layer.original, batch_size)
        gives = _output(op, side, layer, known)
        step = _beside(known[rounding.inputs[1]], rounding.params["axis"], leaves[path].ndim)
        most = fixed_point.limits(rounding.params["bits"], signed=True)[1]
        key, mine = jax.random.split(key)
        scaled = leaves[path].astype(jnp.float32) / step
        schedule = {"steps": steps, "learning_rate": learning_rate, "pull": pull}
        channels = y.shape[layer.axis]
        whole = _learned(gives, scaled, most, x, y, channels, mine, batch_size, **schedule)
        leaves[path] = (whole * step).astype(leaves[path].dtype)
    return fake.replace(params=leaves)


def _output(op: Op, side: int, layer: Placed, known: dict[int, Any]) -> Callable:
    """Returns (integers of the kernel, what the layer reads) -> what it gives, in real numbers."""
    compute = computes(op.kind, op.params | {"preferred_element_type": jnp.float32})

    def gives(whole, x):
        operands = (whole, x) if side == 0 else (x, whole)
        return real(layer, known | {layer.output: compute(len(x), *operands)})

    return gives


def _beside(step: Any, axis: int | None, ndim: int) -> jax.Array:
    """Returns a kernel's steps in a shape that broadcasts to it."""
    step = jnp.asarray(step)
    return step if axis is None else step.reshape([-1 if a == axis else 1 for a in range(ndim)])


def _values(
    model: Model, leaves: dict[str, Any], images: np.ndarray, number: int, batch_size: int
) -> np.ndarray:
    """Returns one value of a graph for all images."""
    kept = tuple(live_ops(model.graph.ops, number))
    give = jax.jit(partial(run, model.graph._replace(ops=kept, logits=number)))
    parts = range(0, len(images), batch_size)
    return np.concatenate([give(leaves, images[i : i + batch_size]) for i in parts])


def _learned(
    gives: Callable,
    scaled: jax.Array,
    most: int,
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
    """Returns the integers, as float32, of a kernel in steps."""
    low, high = _STRETCH
    part = scaled - jnp.floor(scaled)
    v = jax.scipy.special.logit((part - low) / (high - low))  # where up(v) = part
    power = max(float(np.square(y, dtype=np.float64).mean()), float(np.finfo(np.float32).tiny))
    tx = optax.adam(learning_rate)
    state = tx.init(v)

    def whole(up, scaled):
        integers = jnp.clip(jnp.floor(scaled) + up, -most, most)
        return jnp.where(scaled == 0, 0.0, integers)

    @jax.jit
    def error(integers, x, y):
        return jnp.square(gives(integers, x) - y).mean() / power

    def loss(v, scaled, x, y, strength, exponent):
        up = jnp.clip(jax.nn.sigmoid(v) * (high - low) + low, 0, 1)
        between = 1 - jnp.abs(2 * up - 1) ** exponent
        return error(whole(up, scaled), x, y) * channels + strength * between.sum()

    @jax.jit
    def step(v, state, *batch):
        updates, state = tx.update(jax.grad(loss)(v, *batch), state)
        return optax.apply_updates(v, updates), state

    order = jax.random.randint(key, (steps, min(batch_size, len(x))), 0, len(x))
    for i, chosen in enumerate(np.asarray(order)):
        gone = max(i / steps - _WARM, 0.0) / (1 - _WARM)
        exponent = _SHARP + (_BLUNT - _SHARP) * (1 + math.cos(math.pi * gone)) / 2
        strength = pull if i >= _WARM * steps else 0.0
        v, state = step(v, state, scaled, x[chosen], y[chosen], strength, exponent)

    def total(integers):
        parts = range(0, len(x), batch_size)
        sums = [error(integers, x[i : i + batch_size], y[i : i + batch_size]) for i in parts]
        return sum(float(e) * len(x[i : i + batch_size]) for e, i in zip(sums, parts, strict=True))

    nearest, learned = jnp.clip(jnp.round(scaled), -most, most), whole(v > 0, scaled)
    return learned if total(learned) < total(nearest) else nearest
