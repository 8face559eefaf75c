"""A rule that computes a convolution, and what comes after it, in one call.

In: the equation that ends a layer: a bias, a sum of a residual branch, a relu or another clip. Out:
oneDNN's convolution with all of it inside, which reads and writes the result once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from hcjax.accelerate.rules.native import (
    forward_window,
    kernel_missing,
    packed_kernel,
    shapes,
)
from hcjax.core.walker import (
    Eqn,
    Place,
    Replacement,
    as_closed,
    bind,
    is_literal,
    nested_jaxprs,
)
from hcjax.native import calls, onednn

_MOST_SUMS = 2  # a bias and a residual branch


class _Layer(NamedTuple):
    """A convolution and what follows it.

    equations: all of them in order, the convolution first. added: "bias" and "sum" -> the variable
    that is added. clip: bounds of the result; None if it has none.
    """

    equations: list[Eqn]
    added: dict[str, Any]
    clip: tuple[float, float] | None


def native_layer(eqn: Eqn, place: Place) -> Replacement | str:
    """Computes a convolution with the bias, sum and relu after it in one call of oneDNN.

    The end of a ResNet-20 block, 16 channels at 32 x 32 pixels, batch 128: 25 → 19 ms; 256
    channels at 8 x 8 pixels, one image, a kernel that the program holds: 0.56 → 0.38 (AMD EPYC
    with AVX-512, busy with other work).
    """
    layer = _read(eqn, place)
    if layer is None:
        return ""  # as most sums and calls are of something else
    convolution, names = layer.equations[0], list(layer.added)
    window = forward_window(convolution)
    if isinstance(window, str):
        return window
    x, k, y = shapes(convolution)
    if y.dtype == jnp.int32:
        return "of integers, which oneDNN would add and clip in float32"
    in_place = _last_read(layer, place)
    after = ("bias" in names) + 2 * ("sum" in names) + 4 * (layer.clip is not None) + 8 * in_place
    if why := kernel_missing("forward", (x, k, y), window, after):
        return why
    least, most = layer.clip or (-np.inf, np.inf)
    packed = packed_kernel(convolution, place, window, after=after, least=least, most=most)
    how = {"window": window, "result": y, "least": least, "most": most, "in_place": in_place}

    def fast(x, k, *arrays):
        added = dict(zip(names, arrays, strict=False))
        bias = added["bias"].reshape(-1).astype(jnp.float32) if "bias" in added else None
        return onednn.convolution(x, k, bias, added.get("sum"), packed=arrays[len(names) :], **how)

    def plain(*arrays):
        values = dict(zip(inputs, arrays, strict=False))  # a packed kernel comes last
        for step in layer.equations:
            read = [v.val if is_literal(v) else values[v] for v in step.invars]
            values[step.outvars[0]] = bind(step, read)[0]
        return values[eqn.outvars[0]]

    inputs = (*convolution.invars, *layer.added.values())
    run = calls.differentiable(fast, plain)
    many = eqn.primitive.multiple_results

    def call(*arrays):
        found = run(*arrays, *packed)
        return [found] if many else found

    return Replacement(inputs, call)


def _read(eqn: Eqn, place: Place) -> _Layer | None:
    """Returns the layer that an equation ends; None if none does, or more is read of it."""
    clip = _clip(eqn)
    last = eqn if clip is None else _made_alone(eqn.invars[0], place)
    for sums, convolution in _chains(last, place):
        axis = convolution.params["dimension_numbers"].out_spec[1]
        equations, added = [convolution], {}
        for step, other in sums:
            kind, variable, between = _added(step, other, axis, place)
            if not kind or kind in added:
                break
            added[kind] = variable
            equations += [*between, step]
        else:
            equations += [eqn] if clip is not None else []
            if len(equations) > 1:
                return _Layer(equations, added, clip)
    return None


def _last_read(layer: _Layer, place: Place) -> bool:
    """Whether the array that a layer adds may well be read here for the last time.

    Then the result takes its memory: for anything else XLA would copy the array first.
    """
    added = layer.added.get("sum")
    is_read_beside = any(added is v for v in layer.equations[0].invars)
    return added is not None and place.producer(added) is not None and not is_read_beside


def _chains(
    eqn: Eqn | None, place: Place, most: int = _MOST_SUMS
) -> Iterator[tuple[list[tuple[Eqn, Any]], Eqn]]:
    """Yields the ways from an equation down to a convolution: (sums and what each adds, it)."""
    if eqn is not None and eqn.primitive.name == "conv_general_dilated":
        yield [], eqn
    elif eqn is not None and eqn.primitive.name == "add" and most:
        for mine, other in (eqn.invars, eqn.invars[::-1]):
            for sums, convolution in _chains(_made_alone(mine, place), place, most - 1):
                yield [*sums, (eqn, other)], convolution


def _made_alone(v: Any, place: Place) -> Eqn | None:
    """Returns the equation that computes a variable, if the variable is read once."""
    made = place.producer(v)
    return made if made is not None and place.uses[v] == 1 else None


def _added(eqn: Eqn, other: Any, axis: int, place: Place) -> tuple[str, Any, list[Eqn]]:
    """Returns what a sum adds: ("bias" or "sum", variable, equations from it to the operand).

    ("", None, []) for anything else. axis: that of the channels.
    """
    y = eqn.outvars[0].aval
    if _is_number(other) or other.aval.dtype != y.dtype or not y.shape:
        return "", None, []
    made = place.producer(other)
    if made is not None and made.primitive.name == "broadcast_in_dim" and len(made.invars) == 1:
        (vector,) = made.invars
        places = made.params["broadcast_dimensions"]
        sizes = {i: n for i, n in zip(places, vector.aval.shape, strict=True) if n > 1}
        if not _is_number(vector) and sizes == {axis: y.shape[axis]}:
            return "bias", vector, [made]
    if other.aval.shape == y.shape:
        return "sum", other, []
    if {i: n for i, n in enumerate(other.aval.shape) if n > 1} == {axis: y.shape[axis]}:
        return "bias", other, []
    return "", None, []


def _clip(eqn: Eqn) -> tuple[float, float] | None:
    """Returns the bounds that an equation clips its only array to; None if it does not.

    It may be a call of a function that does, such as `jax.nn.relu`.
    """
    name, operands = eqn.primitive.name, eqn.invars
    if name in ("max", "min") and not _is_number(operands[0]) and _is_number(operands[1]):
        bound = float(operands[1].val)
        return (bound, np.inf) if name == "max" else (-np.inf, bound)
    bodies = [body for bodies in nested_jaxprs(eqn).values() for body in bodies]
    if name not in ("jit", "pjit", "custom_jvp_call") or len(operands) != 1 or len(bodies) != 1:
        return None
    body = as_closed(bodies[0]).jaxpr
    least, most, value = -np.inf, np.inf, body.invars[0]
    for step in body.eqns:
        if (bounds := _clip(step)) is None or step.invars[0] is not value:
            return None
        if bounds[0] > most or bounds[1] < least:
            return None  # a constant
        least, most, value = max(least, bounds[0]), min(most, bounds[1]), step.outvars[0]
    return (least, most) if body.eqns and body.outvars[0] is value else None


def _is_number(v: Any) -> bool:
    return is_literal(v) and np.ndim(v.val) == 0
