"""Elementwise ops, functions of the numbers at the same place, and casts."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from hcjax.graph.ops.kind import CAST, ELEMENTWISE, Kind, widen

_AFFINE = frozenset({"affine"})
_SCALING = frozenset({"affine", "homogeneous", "keeps zero"})
# functions of lax that have their primitive's name and no params
_FUNCTIONS = (
    "abs", "acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "bessel_i0e", "bessel_i1e",
    "cbrt", "ceil", "clz", "cos", "cosh", "digamma", "eq", "erf", "erf_inv", "erfc", "exp", "exp2",
    "expm1", "floor", "ge", "gt", "is_finite", "le", "lgamma", "log", "log1p", "logistic", "lt",
    "ne", "nextafter", "population_count", "pow", "rem", "rsqrt", "shift_left",
    "shift_right_arithmetic", "shift_right_logical", "sign", "sin", "sinh", "sqrt", "square", "tan",
    "tanh",
)  # fmt: skip
_BITWISE = {"and": "bitwise_and", "or": "bitwise_or", "xor": "bitwise_xor", "not": "bitwise_not"}


def _function(name: str, **facts) -> Kind:
    """Returns the kind of a function of lax without params."""
    return Kind(ELEMENTWISE, lambda p, *xs: getattr(lax, name)(*xs), **facts)


def _round(p: dict, x: jax.Array) -> jax.Array:
    return lax.round(x, lax.RoundingMethod(p["rounding_method"]))


def _reduce_precision(p: dict, x: jax.Array) -> jax.Array:
    return lax.reduce_precision(x, p["exponent_bits"], p["mantissa_bits"])


ELEMENTWISE_KINDS = {
    **{name: _function(name) for name in _FUNCTIONS},
    **{name: _function(function) for name, function in _BITWISE.items()},
    "and": _function("bitwise_and", traits=frozenset({"product"})),
    "add": _function("add", traits=_AFFINE),
    "sub": _function("sub", traits=_AFFINE),
    "neg": _function("neg", traits=_SCALING),
    "div": _function("div", traits=_AFFINE | {"keeps zero"}),
    "mul": Kind(
        ELEMENTWISE, lambda p, x, y: widen(x) * widen(y), traits=_SCALING | frozenset({"product"})
    ),
    "max": _function("max", traits=frozenset({"clip"})),
    "min": _function("min", traits=frozenset({"clip"})),
    "clamp": _function("clamp", traits=frozenset({"clip"})),
    "relu": Kind(
        ELEMENTWISE, lambda p, x: jax.nn.relu(x), traits=frozenset({"clip", "homogeneous"})
    ),
    "relu6": Kind(ELEMENTWISE, lambda p, x: jax.nn.relu6(x), traits=frozenset({"clip"})),
    "integer_pow": Kind(ELEMENTWISE, lambda p, x: lax.integer_pow(x, p["y"]), ("y",)),
    "round": Kind(ELEMENTWISE, _round, ("rounding_method",)),
    "reduce_precision": Kind(ELEMENTWISE, _reduce_precision, ("exponent_bits", "mantissa_bits")),
    "select_n": Kind(ELEMENTWISE, lambda p, which, *cases: lax.select_n(which, *cases)),
    "convert_element_type": Kind(
        CAST,
        lambda p, x: x.astype(p["new_dtype"]),
        ("new_dtype",),
        traits=frozenset({"keeps zero"}),
        decode={"new_dtype": jnp.dtype},
    ),
}
