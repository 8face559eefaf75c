"""Channel importance: how much the logits change when a channel is removed, to first order.

It is measured where channels are read: each layer's operand is multiplied by a gate per channel,
1 for a channel that is there and 0 for one that is removed. The gates' gradients see the function
of the network alone, so that folding it, or scaling a channel up here and down there, changes
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hcjax.errors import ConfigError
from hcjax.graph import interface
from hcjax.graph.coupling.channels import Channels
from hcjax.graph.coupling.union_find import Read
from hcjax.graph.model import Model, environment, run

_NOISE = 64  # images of noise that stand for data
_SMALLEST = 1e-12  # standard deviation of an output
_CHUNK = 32  # images at a time, to bound the memory of the gradient


def importance(
    model: Model, channels: Channels, images: Any = None, labels: Any = None
) -> Callable[[np.ndarray], np.ndarray]:
    """Makes a function that scores every channel, given those that are removed already.

    The score of channel c is the mean of (∂f/∂g_c)² over the images, for the gate g_c. With labels
    y, f = log softmax(z)_y of the logits z. Without, f = Σ_k s_k (z_k - mean z), with random signs:
    its expectation is the squared change of the centred logits, of whatever the network answers.
    Of outputs of any other shape, f = Σ s_k z_k / σ over all their numbers, with σ the standard
    deviation of each array.

    Args:
      model: in float.
      channels: of the model.
      images: [N, ...] as the network takes them, or a tuple of all inputs; None: standard normal
        noise, the same each time.
      labels: int[N] in [0, K), or None.

    Returns:
      Function: bool[channels.count], True for removed channels -> float64[channels.count], >= 0.

    Raises:
      ConfigError: if the images are not the network's, or labels do not go with them.

    Reference:
      Theis et al., "Faster gaze prediction with dense networks and Fisher pruning", 2018,
      arXiv:1801.05787, eq. 12; Liu et al., "Group Fisher Pruning", 2021, arXiv:2108.00708, section
      3.2: gates that coupled channels share. Without labels: the Gauss-Newton matrix of a squared
      error of the logits, its diagonal by Hutchinson's estimator.
    """
    rng = np.random.default_rng(0)
    if images is None:
        if labels is not None:
            raise ConfigError("labels need the images that they are of")
        images = _noise(model, rng)
    arrays, leaves = arrays_of(model, images), model.leaves(model.params)
    number = interface.count(model.inputs, arrays)
    if labels is None:
        targets, value = _change(model, channels, arrays, rng)
    else:
        target, classes = np.asarray(labels), model.classes
        integers = target.shape == (number,) and target.dtype.kind in "iu"
        if not integers or not ((target >= 0) & (target < classes)).all():
            raise ConfigError(
                f"labels must be int[{number}] in [0, {classes}), got "
                f"{target.dtype}{list(target.shape)}, {target.ravel()[:5].tolist()} …"
            )
        targets = [target]

        def value(gates, leaves, arrays, targets):
            (target,) = targets
            (logits,) = gated(model, channels, gates, leaves, arrays)
            logits = jax.nn.log_softmax(logits.astype(jnp.float32))
            return jnp.take_along_axis(logits, target[:, None], -1).sum()

    gradient = jax.jit(jax.grad(value))

    def score(removed: np.ndarray) -> np.ndarray:
        gates, total = np.where(removed, np.float32(0), np.float32(1)), np.zeros(channels.count)
        for start in range(0, number, _CHUNK):
            chosen = slice(start, start + _CHUNK)
            part = interface.part(model.inputs, arrays, chosen)
            each = jnp.broadcast_to(gates, (interface.count(model.inputs, part), channels.count))
            slopes = gradient(each, leaves, part, [t[chosen] for t in targets])
            total += np.square(np.asarray(slopes, np.float64)).sum(0)
        if not np.isfinite(total).all():
            raise ConfigError("gradients of the logits of these images are not finite")
        return total / number

    return score


def _noise(model: Model, rng: np.random.Generator) -> Any:
    """Returns random examples, for a network whose inputs are all float."""
    leaves, treedef = jax.tree.flatten(model.inputs)
    for name, leaf in zip(interface.names(model.inputs, "images"), leaves, strict=True):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ConfigError(f"{name} is {leaf}, no noise: give examples, images=...")
    noise = jax.tree.unflatten(
        treedef, [rng.standard_normal(leaf.sizes(_NOISE)) for leaf in leaves]
    )
    return noise if len(noise) > 1 else noise[0]


def _change(
    model: Model, channels: Channels, arrays: list[Any], rng: np.random.Generator
) -> tuple[list[np.ndarray], Callable]:
    """Returns random signs for each number of the outputs, and the function that sums them."""
    results = [np.asarray(x) for x in run(model.graph, model.leaves(model.params), arrays)]
    used = [i for i, x in enumerate(results) if x.ndim and jnp.issubdtype(x.dtype, jnp.floating)]
    if not used:
        raise ConfigError("no output of the network is a float array")
    signs = [rng.choice(np.float32([-1, 1]), results[i].shape) for i in used]
    logits = len(results) == 1 and results[0].ndim == 2
    spread = [1.0 if logits else max(float(results[i].std()), _SMALLEST) for i in used]

    def value(gates, leaves, arrays, targets):
        results = gated(model, channels, gates, leaves, arrays)
        total = 0.0
        for i, sign, scale in zip(used, targets, spread, strict=True):
            x = results[i].astype(jnp.float32)
            x = x - x.mean(-1, keepdims=True) if logits else x / scale
            total += (sign * x).sum()
        return total

    return signs, value


def arrays_of(model: Model, images: Any) -> list[jax.Array]:
    """Returns the flat arrays of examples as a network takes them.

    Raises:
      ConfigError: if they are not the network's.
    """
    try:
        arrays = model.arrays(images)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    leaves = jax.tree.leaves(model.inputs)
    return [jnp.asarray(x, leaf.dtype) for x, leaf in zip(arrays, leaves, strict=True)]


def gated(
    model: Model,
    channels: Channels,
    gates: jax.Array,
    leaves: dict[str, Any],
    arrays: Sequence[Any],
) -> list[jax.Array]:
    """Computes the outputs of a network whose layers read each channel times its gate.

    Args:
      model: in float. channels: of the model.
      gates: float[N, channels.count], of each example.
      leaves: path -> array of every parameter.
      arrays: of its inputs, in order.
    """
    graph = model.graph
    reads: dict[int, list[Read]] = {}
    for read in channels.reads:
        reads.setdefault(read.op.output, []).append(read)
    env, batch = environment(graph, leaves, arrays)
    varying = set(graph.inputs)
    for op in graph.ops:
        operands = [env[i] for i in op.inputs]
        for read in reads.get(op.output, ()):
            side = next((s for s in (0, 1) if op.inputs[s] in varying), None)
            if side is not None:
                axes, axis = channels.axes[op.inputs[side]], read.axes[side]
                operands[side] = _times_gates(operands[side], axes, axis, gates)
        env |= zip(op.outputs, op.run(batch, *operands), strict=True)
        if varying.intersection(op.inputs):
            varying.update(op.outputs)
    return [env[number] for number in graph.outputs]


def _times_gates(x: jax.Array, axes: tuple, axis: int, gates: jax.Array) -> jax.Array:
    """Multiplies an operand by the gates of the channels along an axis.

    Args:
      x: with one axis that holds q numbers of each image, image by image.
      axes: its channels, for a batch of one. axis: which of them are read.
    """
    each = gates[:, axes[axis]].astype(x.dtype)  # [N, C]
    others = [a for a in range(x.ndim) if a != axis]
    along = next((a for a in others if x.shape[a] != len(axes[a])), others[0])
    each = jnp.repeat(each, x.shape[along] // len(each), axis=0)
    shape = [1] * x.ndim
    shape[along], shape[axis] = each.shape
    return x * (each if along < axis else each.T).reshape(shape)
