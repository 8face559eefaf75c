"""`correct_bias`: what rounding adds to a layer's mean output, taken off its bias again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hcjax import trees
from hcjax.errors import ConfigError
from hcjax.graph.model import Model, capture_activations, unused_name


class Placed(NamedTuple):
    """A layer of a fake-quantized model.

    output: number of its integer sums. original: of what they stand for, in the float model. axis:
    of its channels. scale, offset: numbers in sums · scale + offset; the latter may be None. bias:
    path of the parameter, or None.
    """

    output: int
    original: int
    name: str
    axis: int
    scale: int
    offset: int | None
    bias: str | None


def matched(model: Model, fake: Model) -> list[Placed]:
    """Returns the layers of a fake-quantized model that are integers, in order.

    Raises:
      ConfigError: if it is not from `fake_quantize` of the first.
    """
    if not any(op.kind == "step" for op in fake.graph.ops):
        raise ConfigError("the second model is not from fake_quantize")
    shapes = {op.output: op.shape for op in model.graph.ops if op.macs}
    paths = {number: path for path, number in fake.graph.params.items()}
    found: dict[int, Placed] = {}
    for op in fake.graph.ops:
        if "layer" in op.params:
            original, name, axis, scale, offset, bias = op.params["layer"]
            if shapes.get(original) != op.shape:
                raise ConfigError("the second model is not from fake_quantize of the first")
            each = Placed(op.output, original, name, axis, scale, offset, paths.get(bias))
            found.setdefault(original, each)  # not the float twin of its sums
    return list(found.values())


def correct_bias(
    model: Model, fake: Model, images: Any, *, masks: Any = None, batch_size: int = 128
) -> Model:
    """Returns a fake-quantized model whose layers have the mean outputs of the float ones.

    Layer by layer, in order: b ← b - E[ỹ - y] for each channel, where y is the layer's output in
    the float model and ỹ in the quantized one, whose earlier layers are corrected already.

    Args:
      model: what was quantized.
      fake: from `fake_quantize` of it.
      images: float array [N, ...], N >= 1, as they were calibrated with.
      masks: bool arrays like `fake.params`, as from `prune.masks` or `prune.nonzero`: an element of
        a bias stays as it is where its mask is False. Give them where biases were pruned; None:
        all are corrected, zeros too, since `fold` makes biases of zeros that nobody pruned.
      batch_size: images at a time.

    Returns:
      `fake` with other biases; `int8` of it has them too. A layer without a bias, and one that
      stays in float, is left as it is; `mean_errors` still lists it.

    Raises:
      ConfigError: if `fake` is not from `fake_quantize` of this model, there are no images, no
        layer has a bias of its own (`fold` gives them), or a bias has no mask of its shape.

    Note:
      It runs both networks once for each layer. Training does as much and more; this needs no
      labels.

    Reference:
      Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", 2019,
      arXiv:1906.04721, appendix D: the empirical form, before the activation function.

    Example:
      >>> from hcjax import calibrate, fake_quantize, fold, trace
      >>> images = jnp.array([[1.0], [1.5]])
      >>> params = {"w": jnp.array([[0.4, 1.0]]), "b": jnp.zeros(2)}
      >>> model = fold(trace(lambda p, x: x @ p["w"] + p["b"], params, images))
      >>> fake = fake_quantize(model, calibrate(model, images), bits=2, granularity="tensor")
      >>> mean_errors(model, fake, images)["w"].round(2).tolist()
      [-0.5, 0.0]
      >>> better = correct_bias(model, fake, images)
      >>> mean_errors(model, better, images)["w"].round(2).tolist()
      [0.0, 0.0]
    """
    found = matched(model, fake)
    if not any(layer.bias for layer in found):
        raise ConfigError("no layer has a bias that could be corrected: fold the model first")
    params = dict(fake.leaves(fake.params))
    biases = {layer.bias: params[layer.bias] for layer in found if layer.bias is not None}
    changes = _changing(masks, biases)
    measure = _measured(model, fake, images, batch_size)
    for layer in found:
        if layer.bias is not None:
            bias = params[layer.bias]
            better = (bias - measure(params)[layer.original]).astype(bias.dtype)
            params[layer.bias] = jnp.where(changes[layer.bias], better, bias)
    return fake.replace(params=params)


def mean_errors(
    model: Model, fake: Model, images: Any, *, batch_size: int = 128
) -> dict[str, np.ndarray]:
    """Returns E[ỹ - y] for each channel of each layer's output, by the layer's name.

    Args:
      model, fake, images, batch_size: as of `correct_bias`.

    Returns:
      Name -> float32[C], in the order of the layers; a name that comes again has a number.

    Raises:
      ConfigError: as `correct_bias`.
    """
    errors = _measured(model, fake, images, batch_size)(fake.leaves(fake.params))
    named: dict[str, np.ndarray] = {}
    for layer in matched(model, fake):
        named[unused_name(layer.name, named)] = errors[layer.original]
    return named


def real(layer: Placed, env: dict[int, jax.Array]) -> jax.Array:
    """Returns a layer's output as real numbers, from what was seen of its graph."""
    y = env[layer.output].astype(jnp.float32) * env[layer.scale]
    return y if layer.offset is None else y + env[layer.offset]


def _changing(masks: Any, biases: dict[str, jax.Array]) -> dict[str, Any]:
    """Returns which elements of each bias may change."""
    if masks is None:
        return dict.fromkeys(biases, True)
    found = dict(trees.paths(masks))
    for path, bias in biases.items():
        if path not in found or jnp.shape(found[path]) not in ((), bias.shape):
            raise ConfigError(
                f"masks must be like the params of the fake-quantized model: {path} {bias.shape} "
                f"has {f'one of {jnp.shape(found[path])}' if path in found else 'none'}"
            )
    return found


def _measured(
    model: Model, fake: Model, images: Any, batch_size: int
) -> Callable[[dict], dict[int, np.ndarray]]:
    """Returns a function of the fake model's leaves: the mean error of each layer's channels."""
    found = matched(model, fake)
    axes = {layer.original: layer.axis for layer in found}
    images = np.asarray(images)
    if not len(images):
        raise ConfigError("no images to correct biases with")

    @jax.jit
    def of_float(leaves, x):
        return {
            n: _mean(y, axes[n])
            for n, y in capture_activations(model, leaves, x).items()
            if n in axes
        }

    @jax.jit
    def of_fake(leaves, x):
        env = capture_activations(fake, leaves, x)
        return {v.original: _mean(real(v, env), v.axis) for v in found}

    def mean(of, leaves):
        sums = dict.fromkeys(axes, 0.0)
        for i in range(0, len(images), batch_size):
            part = images[i : i + batch_size]
            for number, each in jax.device_get(of(leaves, part)).items():
                sums[number] = sums[number] + each.astype(np.float64) * len(part)
        return {number: total / len(images) for number, total in sums.items()}

    expected = mean(of_float, model.leaves(model.params))

    def errors(leaves):
        return {number: m - expected[number] for number, m in mean(of_fake, leaves).items()}

    return errors


def _mean(y: jax.Array, axis: int) -> jax.Array:
    others = tuple(a for a in range(y.ndim) if a != axis)
    return y.astype(jnp.float32).mean(others)
