"""Channel importance: how much the logits change when a channel is removed, to first order.

It is measured where channels are read: each layer's operand is multiplied by a gate per channel,
1 for a channel that is there and 0 for one that is removed. The gates' gradients see the function
of the network alone, so that folding it, or scaling a channel up here and down there, changes
nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hcjax.errors import ConfigError
from hcjax.graph.coupling.channels import Channels
from hcjax.graph.coupling.union_find import Read
from hcjax.graph.model import Model

_NOISE = 64  # images of noise that stand for data
_CHUNK = 32  # images at a time, to bound the memory of the gradient


def importance(
    model: Model, channels: Channels, images: Any = None, labels: Any = None
) -> Callable[[np.ndarray], np.ndarray]:
    """Makes a function that scores every channel, given those that are removed already.

    The score of channel c is the mean of (∂f/∂g_c)² over the images, for the gate g_c. With labels
    y, f = log softmax(z)_y of the logits z. Without, f = Σ_k s_k (z_k - mean z), with random signs:
    its expectation is the squared change of the centred logits, of whatever the network answers.

    Args:
      model: in float.
      channels: of the model.
      images: [N, ...] as the network takes them; None: standard normal noise, the same each time.
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
        images = rng.standard_normal((_NOISE, *model.image_shape))
    images = images_of(model, images)
    leaves, logits = model.leaves(model.params), jax.eval_shape(model.apply, model.params, images)
    if labels is None:
        targets = rng.choice(np.float32([-1, 1]), logits.shape)
    else:
        targets, classes = np.asarray(labels), logits.shape[-1]
        integers = targets.shape == images.shape[:1] and targets.dtype.kind in "iu"
        if not integers or not ((targets >= 0) & (targets < classes)).all():
            raise ConfigError(
                f"labels must be int[{len(images)}] in [0, {classes}), got "
                f"{targets.dtype}{list(targets.shape)}, {targets.ravel()[:5].tolist()} …"
            )

    def value(gates, leaves, images, target):
        logits = gated(model, channels, gates, leaves, images).astype(jnp.float32)
        if labels is None:
            return (target * (logits - logits.mean(-1, keepdims=True))).sum()
        return jnp.take_along_axis(jax.nn.log_softmax(logits), target[:, None], -1).sum()

    gradient = jax.jit(jax.grad(value))

    def score(removed: np.ndarray) -> np.ndarray:
        gates, total = np.where(removed, np.float32(0), np.float32(1)), np.zeros(channels.count)
        for start in range(0, len(images), _CHUNK):
            part = slice(start, start + _CHUNK)
            each = jnp.broadcast_to(gates, (len(images[part]), channels.count))
            slopes = gradient(each, leaves, images[part], targets[part])
            total += np.square(np.asarray(slopes, np.float64)).sum(0)
        if not np.isfinite(total).all():
            raise ConfigError("gradients of the logits of these images are not finite")
        return total / len(images)

    return score


def images_of(model: Model, images: Any) -> jax.Array:
    """Returns images as a network takes them; raises ConfigError if they are not its."""
    images = jnp.asarray(images, model.image_dtype)
    if images.shape[1:] != model.image_shape or not len(images):
        raise ConfigError(
            f"images must be [N, {', '.join(map(str, model.image_shape))}], N >= 1, got "
            f"{list(images.shape)}"
        )
    return images


def gated(
    model: Model, channels: Channels, gates: jax.Array, leaves: dict[str, Any], images: jax.Array
) -> jax.Array:
    """Computes the logits of a network whose layers read each channel times its gate.

    Args:
      model: in float. channels: of the model.
      gates: float[N, channels.count], of each image.
      leaves: path -> array of every parameter.
      images: float[N, ...].
    """
    graph = model.graph
    reads: dict[int, list[Read]] = {}
    for read in channels.reads:
        reads.setdefault(read.op.output, []).append(read)
    env = dict(graph.constants)
    env |= {number: leaves[path] for path, number in graph.params.items()}
    env[graph.images] = images
    varying = {graph.images}
    for op in graph.ops:
        operands = [env[i] for i in op.inputs]
        for read in reads.get(op.output, ()):
            side = next((s for s in (0, 1) if op.inputs[s] in varying), None)
            if side is not None:
                axes, axis = channels.axes[op.inputs[side]], read.axes[side]
                operands[side] = _times_gates(operands[side], axes, axis, gates)
        env |= zip(op.outputs, op.run(len(images), *operands), strict=True)
        if varying.intersection(op.inputs):
            varying.update(op.outputs)
    return env[graph.logits]


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
