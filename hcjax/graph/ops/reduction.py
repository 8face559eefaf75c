"""Ops that compute one number from several: pooling, reductions, cumulative sums, sorting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from hcjax.graph.model import Op
from hcjax.graph.ops.kind import KEEPS_ZERO, ORDER, REDUCE, SUM, Kind, Shapes, count, widen

_WINDOW = ("window_dimensions", "window_strides", "padding", "base_dilation", "window_dilation")
_HOMOGENEOUS = frozenset({"homogeneous"})


def _window(p: dict, x: jax.Array, reduce: Callable, empty: Any) -> jax.Array:
    sizes = (p["window_dimensions"], p["window_strides"], p["padding"])
    dilations = (p["base_dilation"], p["window_dilation"])
    # a NumPy value: jax derives the gradient only if it recognises the reduction
    return lax.reduce_window(x, np.asarray(empty, x.dtype), reduce, *sizes, *dilations)


def _window_sum(p: dict, x: jax.Array) -> jax.Array:
    return _window(p, widen(x), lax.add, 0)


def _window_max(p: dict, x: jax.Array) -> jax.Array:
    return _window(p, x, lax.max, _ends(x)[0])


def _window_min(p: dict, x: jax.Array) -> jax.Array:
    return _window(p, x, lax.min, _ends(x)[1])


def _ends(x: jax.Array) -> tuple[Any, Any]:
    """Returns the least and the greatest number of an array's dtype."""
    if not jnp.issubdtype(x.dtype, jnp.integer):
        return -jnp.inf, jnp.inf
    return jnp.iinfo(x.dtype).min, jnp.iinfo(x.dtype).max


def _window_axes(op: Op, shapes: Shapes) -> tuple[int, ...]:
    """Returns the axes on which the window, stride or dilation is not 1, or that are padded."""
    names = ("window_dimensions", "window_strides", "base_dilation", "padding")
    rows = zip(*(op.params[name] for name in names), strict=True)
    return tuple(a for a, row in enumerate(rows) if (*row[:3], tuple(row[3])) != (1, 1, 1, (0, 0)))


def _window_terms(op: Op, shapes: Shapes) -> int:
    return int(np.prod(op.params["window_dimensions"]))


def _axes(op: Op, shapes: Shapes) -> tuple[int, ...]:
    return tuple(op.params["axes"])


def _other_axes(op: Op, shapes: Shapes) -> tuple[int, ...]:
    return tuple(a for a in range(len(shapes[0])) if a not in op.params["axes"])


def _terms(op: Op, shapes: Shapes) -> int:
    return count([shapes[0][a] for a in op.params["axes"]])


def _axis_in(field: str) -> Callable:
    return lambda op, shapes: (op.params[field] % len(shapes[0]),)


def _summand(family: str, x: jax.Array) -> jax.Array:
    return widen(x) if family == SUM else x


def _reduction(family: str, name: str, **facts: Any) -> Kind:
    """Returns the kind of a function of lax that reduces axes."""
    return Kind(
        family,
        lambda p, x: getattr(lax, name)(_summand(family, x), tuple(p["axes"])),
        ("axes",),
        origin=_other_axes,
        mixes=_axes,
        **facts,
    )


def _index(name: str) -> Kind:
    """Returns the kind of lax's argmax or argmin."""
    return Kind(
        REDUCE,
        lambda p, x: getattr(lax, name)(x, p["axes"][0], p["index_dtype"]),
        ("axes", "index_dtype"),
        origin=_other_axes,
        mixes=_axes,
        decode={"index_dtype": jnp.dtype},
    )


def _cumulative(family: str, name: str, **facts: Any) -> Kind:
    """Returns the kind of a function of lax that adds up, or the like, along an axis."""
    return Kind(
        family,
        lambda p, x: getattr(lax, name)(_summand(family, x), p["axis"], p["reverse"]),
        ("axis", "reverse"),
        mixes=_axis_in("axis"),
        **facts,
    )


def _sort(p: dict, *xs: jax.Array) -> jax.Array:
    options = {"dimension": p["dimension"], "is_stable": p["is_stable"], "num_keys": p["num_keys"]}
    return lax.sort(xs, **options)[p["result"]]


def _top_k(p: dict, x: jax.Array) -> jax.Array:
    last = x.ndim - 1
    values = lax.top_k(jnp.moveaxis(x, p["axis"], last), p["k"])
    return jnp.moveaxis(values[p["result"]], last, p["axis"])


REDUCTION_KINDS = {
    "reduce_sum": _reduction(SUM, "reduce_sum", terms=_terms, traits=_HOMOGENEOUS),
    "reduce_max": _reduction(ORDER, "reduce_max", traits=KEEPS_ZERO),
    "reduce_min": _reduction(ORDER, "reduce_min", traits=KEEPS_ZERO),
    "reduce_prod": _reduction(REDUCE, "reduce_prod"),
    "reduce_and": _reduction(REDUCE, "reduce_and"),
    "reduce_or": _reduction(REDUCE, "reduce_or"),
    "argmax": _index("argmax"),
    "argmin": _index("argmin"),
    "reduce_window_sum": Kind(
        SUM, _window_sum, _WINDOW, mixes=_window_axes, terms=_window_terms, traits=_HOMOGENEOUS
    ),
    "reduce_window_max": Kind(ORDER, _window_max, _WINDOW, mixes=_window_axes, traits=KEEPS_ZERO),
    "reduce_window_min": Kind(ORDER, _window_min, _WINDOW, mixes=_window_axes, traits=KEEPS_ZERO),
    "cumsum": _cumulative(
        SUM,
        "cumsum",
        terms=lambda op, shapes: count([shapes[0][op.params["axis"]]]),
        traits=_HOMOGENEOUS,
    ),
    "cummax": _cumulative(ORDER, "cummax", traits=KEEPS_ZERO),
    "cummin": _cumulative(ORDER, "cummin", traits=KEEPS_ZERO),
    "cumprod": _cumulative(REDUCE, "cumprod"),
    "cumlogsumexp": _cumulative(REDUCE, "cumlogsumexp"),
    "sort": Kind(
        ORDER,
        _sort,
        ("dimension", "is_stable", "num_keys", "result"),
        mixes=_axis_in("dimension"),
        traits=_HOMOGENEOUS,
    ),
    "top_k": Kind(ORDER, _top_k, ("k", "axis", "result"), mixes=_axis_in("axis")),
}
