"""`correct_bias`: subtracts the mean quantization error of a layer's output from its bias."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hcjax import trees
from hcjax.errors import ConfigError
from hcjax.graph import interface
from hcjax.graph.model import Model, capture_activations, unused_name


class QuantizedLayer(NamedTuple):
    """A layer of a fake-quantized model.

    output: number of its integer sums. original: number of its output in the float model. axis: of
    its channels. scale, offset: numbers in output = sums · scale + offset; offset may be None.
    bias: path of the parameter, or None. center, rest: an integer and a number, or None, in output
    = (sums of kernel · (q - center)) · scale + rest, which holds for other kernels too.
    """

    output: int
    original: int
    name: str
    axis: int
    scale: int
    offset: int | None
    bias: str | None
    center: int
    rest: int | None


def quantized_layers(model: Model, fake: Model) -> list[QuantizedLayer]:
    """Returns the layers of a fake-quantized model that compute on integers, in order.

    Raises:
      ConfigError: if `fake` is not from `fake_quantize` of `model`.
    """
    if not any(op.kind == "step" for op in fake.graph.ops):
        raise ConfigError("the second model is not from fake_quantize")
    shapes = {op.output: op.shape for op in model.graph.ops if op.macs}
    paths = {number: path for path, number in fake.graph.params.items()}
    layers: dict[int, QuantizedLayer] = {}
    for op in fake.graph.ops:
        if "layer" in op.params:
            original, name, axis, scale, offset, bias, center, rest = op.params["layer"]
            if shapes.get(original) != op.shape:
                raise ConfigError("the second model is not from fake_quantize of the first")
            numbers = (op.output, original, name, axis, scale, offset, paths.get(bias))
            layer = QuantizedLayer(*numbers, center, rest)
            layers.setdefault(original, layer)  # the float op for gradients comes second
    return list(layers.values())


def correct_bias(
    model: Model, fake: Model, images: Any, *, masks: Any = None, batch_size: int = 128
) -> Model:
    """Returns a fake-quantized model whose layers have the mean outputs of the float ones.

    For each layer in order: b ← b - E[ỹ - y] for each channel, where y is the layer's output in the
    float model and ỹ that in the quantized one, with earlier layers corrected.

    Args:
      model: the float model.
      fake: from `fake_quantize` of `model`.
      images: float array [N, ...], N >= 1, e.g. those of the calibration.
      masks: bool arrays like `fake.params`, as from `prune.masks` or `prune.nonzero`. An element of
        a bias is unchanged where its mask is False. Give masks if biases were pruned. None corrects
        all biases, zeros too, since `fold` adds biases of zeros that are not pruned.
      batch_size: images in one call.

    Returns:
      `fake` with corrected biases, which `int8` keeps. A layer without a bias or in float is
      unchanged; `mean_errors` still lists it.

    Raises:
      ConfigError: if `fake` is not from `fake_quantize` of this model, there are no images, no
        layer has a bias of its own (`fold` gives them), or a bias has no mask of its shape.

    Note:
      Runs the quantized network once for each layer. Needs no labels; quantization-aware training
      corrects biases too.

    Reference:
      Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", 2019,
      arXiv:1906.04721, appendix D: the empirical form, before the activation function.

    Example:
      >>> from hcjax import calibrate, fake_quantize, fold, trace
      >>> images = jnp.array([[0.0], [2.5]])
      >>> params = {"w": jnp.array([[0.4, 1.0]]), "b": jnp.zeros(2)}
      >>> model = fold(trace(lambda p, x: x @ p["w"] + p["b"], params, images))
      >>> options = {"bits": 2, "activation_bits": 8, "granularity": "tensor"}
      >>> fake = fake_quantize(model, calibrate(model, images), **options)
      >>> mean_errors(model, fake, images)["w"].round(2).tolist()
      [-0.5, 0.0]
      >>> better = correct_bias(model, fake, images)
      >>> mean_errors(model, better, images)["w"].round(2).tolist()
      [0.0, 0.0]
    """
    layers = quantized_layers(model, fake)
    if not any(layer.bias for layer in layers):
        raise ConfigError("no layer has a bias that could be corrected: fold the model first")
    params = dict(fake.leaves(fake.params))
    biases = {layer.bias: params[layer.bias] for layer in layers if layer.bias is not None}
    masks_by_path = _bias_masks(masks, biases)
    mean_errors_of = _mean_errors_function(model, fake, images, batch_size)
    for layer in layers:
        if layer.bias is not None:
            bias = params[layer.bias]
            corrected = (bias - mean_errors_of(params)[layer.original]).astype(bias.dtype)
            params[layer.bias] = jnp.where(masks_by_path[layer.bias], corrected, bias)
    return fake.replace(params=params)


def mean_errors(
    model: Model, fake: Model, images: Any, *, batch_size: int = 128
) -> dict[str, np.ndarray]:
    """Returns E[ỹ - y] for each channel of each layer's output, by the layer's name.

    Args:
      model, fake, images, batch_size: as in `correct_bias`.

    Returns:
      Name -> float32[C], in the order of the layers; repeated names get a number.

    Raises:
      ConfigError: as `correct_bias`.
    """
    errors = _mean_errors_function(model, fake, images, batch_size)(fake.leaves(fake.params))
    named: dict[str, np.ndarray] = {}
    for layer in quantized_layers(model, fake):
        named[unused_name(layer.name, named)] = errors[layer.original]
    return named


def dequantize_output(layer: QuantizedLayer, env: dict[int, jax.Array]) -> jax.Array:
    """Returns a layer's output in real numbers, from the captured activations of its graph."""
    y = env[layer.output].astype(jnp.float32) * env[layer.scale]
    return y if layer.offset is None else y + env[layer.offset]


def _bias_masks(masks: Any, biases: dict[str, jax.Array]) -> dict[str, Any]:
    """Returns path -> mask of the elements of each bias that may change."""
    if masks is None:
        return dict.fromkeys(biases, True)
    by_path = dict(trees.paths(masks))
    for path, bias in biases.items():
        if path not in by_path or jnp.shape(by_path[path]) not in ((), bias.shape):
            raise ConfigError(
                f"masks must be like the params of the fake-quantized model: {path} {bias.shape} "
                f"has {f'one of {jnp.shape(by_path[path])}' if path in by_path else 'none'}"
            )
    return by_path


def _mean_errors_function(
    model: Model, fake: Model, images: Any, batch_size: int
) -> Callable[[dict], dict[int, np.ndarray]]:
    """Returns a function of the fake model's leaves -> mean error of each layer's channels."""
    layers = quantized_layers(model, fake)
    axes = {layer.original: layer.axis for layer in layers}
    arrays = model.arrays(images)
    batches = interface.batches(model.inputs, arrays, batch_size)

    @jax.jit
    def float_means(leaves, x):
        return {
            n: _mean(y, axes[n])
            for n, y in capture_activations(model, leaves, x).items()
            if n in axes
        }

    @jax.jit
    def fake_means(leaves, x):
        env = capture_activations(fake, leaves, x)
        return {v.original: _mean(dequantize_output(v, env), v.axis) for v in layers}

    def mean(batch_means, leaves):
        sums = dict.fromkeys(axes, 0.0)
        for batch in batches:
            count = interface.count(model.inputs, batch)
            for number, means in jax.device_get(batch_means(leaves, batch)).items():
                sums[number] = sums[number] + means.astype(np.float64) * count
        total = interface.count(model.inputs, arrays)
        return {number: each / total for number, each in sums.items()}

    expected = mean(float_means, model.leaves(model.params))

    def errors(leaves):
        return {number: m - expected[number] for number, m in mean(fake_means, leaves).items()}

    return errors


def _mean(y: jax.Array, axis: int) -> jax.Array:
    """Returns the mean of each channel."""
    others = tuple(a for a in range(y.ndim) if a != axis)
    return y.astype(jnp.float32).mean(others)
