"""Losses between the activations of a student and its teacher; `features` returns activations.

Gradients never reach the teacher. Losses have one value per example.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from hcjax.distill.logits import alike
from hcjax.errors import ConfigError, unknown_name
from hcjax.graph import interface
from hcjax.graph.axes import channel_axis
from hcjax.graph.constants import evaluate_constants, layer_name
from hcjax.graph.model import LAYERS, Model, Op, consumers
from hcjax.graph.ops.kind import ELEMENTWISE
from hcjax.graph.ops.table import family


def features(model: Model, names: Sequence[str]) -> Callable[..., tuple[Any, dict[str, jax.Array]]]:
    """Makes `(params, *inputs) -> (outputs, name -> activation)`; the network needs no change.

    A layer's activation is its output after the bias, norm, relu and other elementwise functions
    that follow it. It ends before another layer, a pooling, a sum of two branches, or where two ops
    consume it. Channels come last, whatever the layout of the network.

    Args:
      model: from `trace`, or any transform whose result is in float.
      names: of layers, as `print(hcjax.cost(model))` lists them.

    Raises:
      ConfigError: if there is no layer of a name; the message suggests the nearest.

    Example:
      >>> from hcjax import trace
      >>> params = {"a": {"w": jnp.eye(2)}, "b": {"w": jnp.ones((2, 1))}}
      >>> apply = lambda p, x: jax.nn.relu(x @ p["a"]["w"]) @ p["b"]["w"]
      >>> model = trace(apply, params, jnp.ones((1, 2)))
      >>> logits, activations = features(model, ["a"])(model.params, jnp.array([[3.0, -1.0]]))
      >>> logits.tolist(), activations["a"].tolist()
      ([[3.0]], [[3.0, 0.0]])
    """
    ends = _ends(model)
    for name in names:
        if name not in ends:
            raise ConfigError(unknown_name("layer", name, ends))
    captured = {ends[name][0]: (name, ends[name][1]) for name in names}

    def apply(params, *inputs):
        activations = {}

        def capture(number, value):
            if number in captured:
                name, axis = captured[number]
                activations[name] = jnp.moveaxis(value, axis, -1)

        arrays = interface.flatten(model.inputs, inputs)
        return model.compute(model.leaves(params), arrays, capture), activations

    return apply


def _ends(model: Model) -> dict[str, tuple[int, int]]:
    """Maps each layer to its activation's number and channel axis; the last of equal names wins."""
    ops, values, broadcast = evaluate_constants(model)
    paths = {number: path for path, number in model.graph.params.items()}
    consumers_of = consumers(ops)

    def alone(end: Op) -> Op | None:
        """Finds the only consumer of an op, if elementwise and constant in its other operands."""
        following = consumers_of.get(end.output, ())
        if len(following) != 1 or family(following[0]) != ELEMENTWISE:
            return None
        (op,) = following
        others = [i for i in op.inputs if i != end.output]
        return op if all(i in values or i in broadcast for i in others) else None

    ends = {}
    for op in ops:
        kernel = next((i for i in op.inputs if i in values), None)
        if op.kind in LAYERS and kernel is not None:
            end = op
            while (following := alone(end)) is not None:
                end = following
            name = layer_name(model, op, kernel, paths)
            axis = channel_axis(op, values)
            ends[name] = (end.output, -1 if axis is None else axis)
    return ends


def hint(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Computes the mean squared difference of two activations, of each example.

    Args:
      student, teacher: float[N, ...] of equal shapes; for other channel counts see `projected`.

    Returns:
      float32[N].

    Raises:
      ValueError: if the shapes differ.

    Reference:
      Romero et al., "FitNets", 2014, arXiv:1412.6550, equation 3 (there half of the sum).

    Example:
      >>> hint(jnp.zeros((1, 2, 2)), jnp.ones((1, 2, 2))).tolist()
      [1.0]
    """
    student, teacher = alike(student, teacher)
    return jnp.square(student - teacher).reshape(len(student), -1).mean(-1)


def attention(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Computes the squared distance ‖Q_s - Q_t‖² of two attention maps, of each example.

    The map Q is Σ_c a² over the positions of the image, divided by its Euclidean norm.

    Args:
      student, teacher: float[N, H, W, C], of the same H and W; channels may differ.

    Returns:
      float32[N], in [0, 4].

    Raises:
      ConfigError: if an activation has no axes H and W.
      ValueError: if N, H or W differ.

    Reference:
      Zagoruyko and Komodakis, "Paying More Attention to Attention", 2016, arXiv:1612.03928,
      section 3.1. Deviation: squared distance.

    Example:
      >>> x = jnp.arange(8.0).reshape(1, 2, 2, 2)
      >>> attention(x, 3 * x).round(6).tolist()
      [0.0]
    """
    if min(student.ndim, teacher.ndim) < 3:
        raise ConfigError(
            f"attention compares maps over an image, [N, H, W, C], got {student.shape} and "
            f"{teacher.shape}: use hint for such a layer"
        )
    if student.shape[:-1] != teacher.shape[:-1]:
        raise ValueError(f"images must be alike, got {student.shape} and {teacher.shape}")

    def attention_map(x):
        flat = jnp.square(x.astype(jnp.float32)).sum(-1).reshape(len(x), -1)
        square = jnp.square(flat).sum(-1, keepdims=True)
        return flat / jnp.sqrt(jnp.maximum(square, jnp.finfo(jnp.float32).tiny))

    return jnp.square(attention_map(student) - attention_map(lax.stop_gradient(teacher))).sum(-1)


def relational(
    student: jax.Array, teacher: jax.Array, *, distance: float = 25.0, angle: float = 50.0
) -> jax.Array:
    """Compares the distances and angles among the activations of a batch, for each example.

    With d(i, j) = ‖x_i - x_j‖ / mean over all pairs, c(i, j, k) the cosine of the angle at j from i
    to k, and h Huber's loss with threshold 1, the loss of example j is
    α mean_i h(d_s(i, j) - d_t(i, j)) + β mean_ik h(c_s(i, j, k) - c_t(i, j, k)).

    Args:
      student, teacher: float[N, ...] of equal N >= 2; other axes may differ.
      distance: α >= 0. angle: β >= 0; N³ numbers are computed unless it is 0.

    Returns:
      float32[N], >= 0; each value depends on the whole batch.

    Raises:
      ValueError: if N differs, or is 1.

    Reference:
      Park et al., "Relational Knowledge Distillation", 2019, arXiv:1904.05068, section 3; α and β
      are theirs for metric learning. Deviation: cosines are summed over all i and k other than j.

    Example:
      >>> x = jnp.array([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
      >>> (relational(x, 5 * x + 1).round(6) + 0.0).tolist()
      [0.0, 0.0, 0.0]
    """
    if len(student) != len(teacher) or len(student) < 2:
        counts = f"{len(student)}, {len(teacher)}"
        raise ValueError(f"expected as many examples, two or more, got {counts}")
    pairs = [_relations(x) for x in (student, lax.stop_gradient(teacher))]
    (d, e), (d_t, e_t) = pairs
    others = len(d) - 1
    loss = distance * _huber(d - d_t).sum(0) / others
    if angle:
        cosines, cosines_t = (jnp.einsum("jic,jkc->jik", u, u) for u in (e, e_t))
        loss += angle * _huber(cosines - cosines_t).sum((1, 2)) / others**2
    return loss


def _relations(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Computes distances [N, N] divided by their mean, and unit vectors [N, N, C] of all pairs."""
    x = x.astype(jnp.float32).reshape(len(x), -1)
    difference = x[None] - x[:, None]
    square = jnp.square(difference).sum(-1)
    same = square == 0  # the gradient of the root is infinite there
    lengths = jnp.where(same, 0.0, jnp.sqrt(jnp.where(same, 1.0, square)))
    mean = lengths.sum() / (len(x) * (len(x) - 1))
    unit = difference / jnp.where(same, 1.0, lengths)[..., None]
    return lengths / jnp.where(mean > 0, mean, 1.0), unit


def _huber(x: jax.Array) -> jax.Array:
    """Computes x² / 2 where |x| <= 1, and |x| - 1/2 elsewhere."""
    return jnp.where(jnp.abs(x) <= 1, 0.5 * x**2, jnp.abs(x) - 0.5)
