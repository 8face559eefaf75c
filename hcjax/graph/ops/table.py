"""What an op computes, by its kind and params alone: the vocabulary of integer graphs and files.

A traced op runs the equation that it was read from; an op that a transform made, or that a file
holds, runs what this table says. Integers stay integers: layers and sums of int8 are int32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from hcjax.graph.model import Op, at_batch
from hcjax.graph.ops import fixed_point
from hcjax.graph.qtensor import QTensor, dequantize


class Kind(NamedTuple):
    """A kind of op.

    run: `(params, *operands) -> array`. fields: names of those params that it reads.
    """

    run: Callable[..., Any]
    fields: tuple[str, ...] = ()


def defined(op: Op, **changes: Any) -> Op:
    """Returns an op that runs what the table says of its kind and params.

    Args:
      op: whose kind is in `OPS`.
      changes: fields of it that change first.

    Example:
      >>> op = Op("mul", (1, 2), (3,), (), jnp.int32, "", None, {})
      >>> defined(op).run_one(1, jnp.int8(100), jnp.int8(100)).item()
      10000
    """
    op = op._replace(**changes)
    run = computes(op.kind, op.params)
    return op._replace(run=lambda batch, *inputs: [run(batch, *inputs)])


def computes(kind: str, params: dict) -> Callable[..., jax.Array]:
    """Returns what a kind of op computes: a function of (batch size, operands)."""
    found = OPS[kind]
    params = {name: params[name] for name in found.fields if name in params}
    return lambda batch, *inputs: found.run(at_batch(params, batch), *inputs)


def _conv(p: dict, x: Any, kernel: Any, *bias: jax.Array) -> jax.Array:
    x, kernel = _plain(x), _plain(kernel)
    names = ("window_strides", "padding", "lhs_dilation", "rhs_dilation", "feature_group_count")
    numbers = lax.ConvDimensionNumbers(*p["dimension_numbers"])
    about = {name: p[name] for name in names} | {"dimension_numbers": numbers}
    y = lax.conv_general_dilated(x, kernel, **about, preferred_element_type=_sums(p, x))
    return _biased(p, y, *bias)


def _dot(p: dict, x: Any, y: Any, *bias: jax.Array) -> jax.Array:
    x, y = _plain(x), _plain(y)
    numbers = p["dimension_numbers"]
    return _biased(p, lax.dot_general(x, y, numbers, preferred_element_type=_sums(p, x)), *bias)


def _sums(p: dict, x: jax.Array) -> Any:
    return jnp.int32 if x.dtype == jnp.int8 else p.get("preferred_element_type")


def _plain(x: Any) -> jax.Array:
    return x.values if isinstance(x, QTensor) else x


def _biased(p: dict, y: jax.Array, *bias: jax.Array) -> jax.Array:
    """Returns a layer's product with its folded bias, if it has one."""
    if not bias:
        return y
    along = [-1 if a == p["bias_axis"] else 1 for a in range(y.ndim)]
    return y + bias[0].reshape(along).astype(y.dtype)


def _wider(x: jax.Array) -> jax.Array:
    return x.astype(jnp.int32) if x.dtype == jnp.int8 else x


def _window_sum(p: dict, x: jax.Array) -> jax.Array:
    return _window(p, _wider(x), lax.add, 0)


def _window_max(p: dict, x: jax.Array) -> jax.Array:
    whole = jnp.issubdtype(x.dtype, jnp.integer)
    return _window(p, x, lax.max, jnp.iinfo(x.dtype).min if whole else -jnp.inf)


def _window(p: dict, x: jax.Array, reduce: Callable, empty: Any) -> jax.Array:
    sizes = (p["window_dimensions"], p["window_strides"], p["padding"])
    dilations = (p["base_dilation"], p["window_dilation"])
    # a NumPy value: jax knows the derivative only where it can see which reduction this is
    return lax.reduce_window(x, np.asarray(empty, x.dtype), reduce, *sizes, *dilations)


def _quantize(p: dict, x: jax.Array, step: jax.Array) -> jax.Array:
    return fixed_point.quantize(x, step, p["least"], p["most"]).astype(jnp.int8)


def _requantize(p: dict, *values: jax.Array) -> jax.Array:
    bounds, count = p["bounds"], len(p["bounds"])
    terms, constants = [t.astype(jnp.int32) for t in values[:count]], values[count:]
    fixed = fixed_point.Fixed(constants[:count], *constants[count:], None)
    q = fixed_point.requantize(terms, bounds, fixed, p["least"], p["most"])
    q = q.astype(jnp.int8 if p["least"] >= -128 and p["most"] <= 127 else jnp.int32)
    # or XLA rounds again inside every reader: ResNet-20 takes 44 ms instead of 38 on a CPU
    return lax.optimization_barrier(q)


def _look_up(p: dict, q: jax.Array, table: jax.Array) -> jax.Array:
    return fixed_point.look_up(q.astype(jnp.int32), table, p["axis"])


def _dequantize(p: dict, acc: jax.Array, scale: jax.Array, *offset: jax.Array) -> jax.Array:
    whole = acc.astype(jnp.int32)
    whole = whole + offset[0] if offset else whole
    along = [-1 if a == p["axis"] else 1 for a in range(acc.ndim)] if scale.ndim else ()
    return whole.astype(jnp.float32) * scale.reshape(along)


def spread(codebook: jax.Array, indices: jax.Array, below: int) -> jax.Array:
    """Returns the array whose numbers stand in a codebook.

    Args:
      codebook: float[K], ascending where nobody has trained it.
      indices: int[...], -below to K - below: 0 is the number 0, exactly; -1 the last of the first
        `below` in the codebook, 1 the one behind it.
      below: how many of the codebook have negative indices.

    Example:
      >>> spread(jnp.array([-2.0, 1.0, 3.0]), jnp.array([[-1, 0], [1, 2]]), 1).tolist()
      [[-2.0, 0.0], [1.0, 3.0]]
    """
    zero = jnp.zeros(1, codebook.dtype)
    table = jnp.concatenate([codebook[:below], zero, codebook[below:]])
    return table[indices.astype(jnp.int32) + below]


def _broadcast(p: dict, x: jax.Array) -> jax.Array:
    return lax.broadcast_in_dim(x, p["shape"], p["broadcast_dimensions"])


def _slice(p: dict, x: jax.Array) -> jax.Array:
    return lax.slice(x, p["start_indices"], p["limit_indices"], p["strides"])


def _round(p: dict, x: jax.Array) -> jax.Array:
    return lax.round(x, lax.RoundingMethod(p["rounding_method"]))


_WINDOW = ("window_dimensions", "window_strides", "padding", "base_dilation", "window_dilation")
_ELEMENTWISE = (
    "abs", "add", "cbrt", "ceil", "clamp", "cos", "div", "eq", "erf", "erf_inv", "erfc", "exp",
    "exp2", "expm1", "floor", "ge", "gt", "is_finite", "le", "log", "log1p", "logistic", "lt",
    "max", "min", "ne", "neg", "pow", "rsqrt", "sign", "sin", "sqrt", "square", "sub", "tan",
    "tanh",
)  # fmt: skip
# small arrays made large: not evaluated where size is what matters
STORED = ("dequantize_kernel", "spread")
OPS: dict[str, Kind] = {
    "conv_general_dilated": Kind(
        _conv,
        (
            "window_strides",
            "padding",
            "lhs_dilation",
            "rhs_dilation",
            "feature_group_count",
            "dimension_numbers",
            "preferred_element_type",
            "bias_axis",
        ),
    ),
    "dot_general": Kind(_dot, ("dimension_numbers", "preferred_element_type", "bias_axis")),
    "quantize": Kind(_quantize, ("least", "most")),
    "requantize": Kind(_requantize, ("bounds", "least", "most")),
    "look_up": Kind(_look_up, ("axis",)),
    "dequantize": Kind(_dequantize, ("axis",)),
    "dequantize_kernel": Kind(lambda p, q: dequantize(q)),
    "spread": Kind(lambda p, codebook, indices: spread(codebook, indices, p["below"]), ("below",)),
    "mul": Kind(lambda p, x, y: _wider(x) * _wider(y)),
    "relu": Kind(lambda p, x: jax.nn.relu(x)),
    "relu6": Kind(lambda p, x: jax.nn.relu6(x)),
    "reduce_sum": Kind(lambda p, x: lax.reduce_sum(_wider(x), p["axes"]), ("axes",)),
    "reduce_max": Kind(lambda p, x: lax.reduce_max(x, p["axes"]), ("axes",)),
    "reduce_min": Kind(lambda p, x: lax.reduce_min(x, p["axes"]), ("axes",)),
    "reduce_window_sum": Kind(_window_sum, _WINDOW),
    "reduce_window_max": Kind(_window_max, _WINDOW),
    "reshape": Kind(lambda p, x: lax.reshape(x, p["new_sizes"]), ("new_sizes",)),
    "transpose": Kind(lambda p, x: lax.transpose(x, p["permutation"]), ("permutation",)),
    "squeeze": Kind(lambda p, x: lax.squeeze(x, p["dimensions"]), ("dimensions",)),
    "broadcast_in_dim": Kind(_broadcast, ("shape", "broadcast_dimensions")),
    "rev": Kind(lambda p, x: lax.rev(x, p["dimensions"]), ("dimensions",)),
    "slice": Kind(_slice, ("start_indices", "limit_indices", "strides")),
    "pad": Kind(lambda p, x, v: lax.pad(x, v, p["padding_config"]), ("padding_config",)),
    "concatenate": Kind(lambda p, *xs: lax.concatenate(xs, p["dimension"]), ("dimension",)),
    "copy": Kind(lambda p, x: x),
    # a softmax has one, for its greatest number is subtracted for the range alone
    "stop_gradient": Kind(lambda p, x: lax.stop_gradient(x)),
    "convert_element_type": Kind(lambda p, x: x.astype(p["new_dtype"]), ("new_dtype",)),
    "select_n": Kind(lambda p, which, *cases: lax.select_n(which, *cases)),
    "integer_pow": Kind(lambda p, x: lax.integer_pow(x, p["y"]), ("y",)),
    "round": Kind(_round, ("rounding_method",)),
    "and": Kind(lambda p, x, y: lax.bitwise_and(x, y)),
    "or": Kind(lambda p, x, y: lax.bitwise_or(x, y)),
    "not": Kind(lambda p, x: lax.bitwise_not(x)),
    **{name: Kind(lambda p, *xs, name=name: getattr(lax, name)(*xs)) for name in _ELEMENTWISE},
}
