"""Convolutions and dense products of any form, as plain loops; `blocks.py` has the fast ones."""

from __future__ import annotations

import numpy as np
from jax import lax

from hcjax.export.c.writer import Writer, index, row_major
from hcjax.graph.model import Op


def operand(w: Writer, n: int) -> tuple[str, str]:
    """Returns the name of a layer's operand, and how its number `at` is read; {at} is filled in.

    A kernel of 8 bits has its own integers, an activation of 8 bits is q + 128.
    """
    value = w.constant(n)
    if value is not None:
        kind = {"int8": "int8_t", "float32": "float"}.get(value.dtype.name, "int32_t")
        name = w.data(kind, value)
        return name, name + "[{at}]"
    name = w.name(n)
    return name, f"({name}[{{at}}] - 128)" if w.dtype(n) == "int8" else name + "[{at}]"


def convolution(w: Writer, op: Op) -> None:
    """Writes a convolution: for each number of the result a loop over the kernel."""
    if op.output in w.done:
        return
    p, (x, k, *bias) = op.params, op.inputs
    numbers = lax.ConvDimensionNumbers(*p["dimension_numbers"])
    sizes, given, kernel = w.sizes(op.output), w.sizes(x), w.sizes(k)
    to_strides, strides, taps = row_major(sizes), row_major(given), row_major(kernel)
    groups, out = p["feature_group_count"], numbers.out_spec
    outputs = kernel[numbers.rhs_spec[0]] // groups
    inputs = kernel[numbers.rhs_spec[1]]
    w.comment(op)
    kind = "float" if w.dtype(op.output) == "float32" else "int32_t"
    (_, read_x), (_, read_k) = operand(w, x), operand(w, k)
    lines, close = [], 0
    at_x = [f"n * {strides[numbers.lhs_spec[0]]}", f"c * {strides[numbers.lhs_spec[1]]}"]
    at_k = [f"o * {taps[numbers.rhs_spec[0]]}", f"(c - g * {inputs}) * {taps[numbers.rhs_spec[1]]}"]
    for d in range(len(sizes) - 2):
        own, m = given[numbers.lhs_spec[2 + d]], kernel[numbers.rhs_spec[2 + d]]
        low, dilation = int(p["padding"][d][0]), p["lhs_dilation"][d]
        lines.append(f"for (int j{d} = 0; j{d} < {m}; j{d}++) {{")
        lines.append(
            f"  int y{d} = s{d} * {p['window_strides'][d]} + j{d} * {p['rhs_dilation'][d]} - {low};"
        )
        if dilation != 1:
            lines.append(f"  if (y{d} % {dilation}) continue;")
            lines.append(f"  y{d} /= {dilation};")
        lines.append(f"  if (y{d} < 0 || y{d} >= {own}) continue;")
        at_x.append(f"y{d} * {strides[numbers.lhs_spec[2 + d]]}")
        at_k.append(f"j{d} * {taps[numbers.rhs_spec[2 + d]]}")
        close += 1
    product = f"{read_x.format(at=' + '.join(at_x))} * {read_k.format(at=' + '.join(at_k))}"
    lines += [f"for (int c = g * {inputs}; c < (g + 1) * {inputs}; c++)", f"  sum += {product};"]
    lines.append("}" * close)
    names = ["n", "o", *(f"s{d}" for d in range(len(sizes) - 2))]
    place = " + ".join(f"{v} * {to_strides[a]}" for v, a in zip(names, out, strict=True))
    w.add(f"for (int n = 0; n < {sizes[out[0]]}; n++)")
    w.add(f"for (int g = 0; g < {groups}; g++)")
    w.add(f"for (int o = g * {outputs}; o < (g + 1) * {outputs}; o++)")
    for d in range(len(sizes) - 2):
        w.add(f"for (int s{d} = 0; s{d} < {sizes[out[2 + d]]}; s{d}++)")
    added = _bias(w, bias, p, dict(zip(out, names, strict=True)))
    to = w.make(op.output)
    w.add("{", f"  {kind} sum = 0;", *(f"  {line}" for line in lines))
    w.add(f"  {to}[{place}] = sum{added};", "}")


def product(w: Writer, op: Op) -> None:
    """Writes a product of arrays: for each number of the result a loop over what is summed."""
    if op.output in w.done:
        return
    p, (x, y, *bias) = op.params, op.inputs
    (left, right), (left_batch, right_batch) = p["dimension_numbers"]
    one, other, sizes = w.sizes(x), w.sizes(y), w.sizes(op.output)
    rest = [a for a in range(len(one)) if a not in (*left, *left_batch)]
    far = [a for a in range(len(other)) if a not in (*right, *right_batch)]
    first, second = np.zeros(len(sizes), int), np.zeros(len(sizes), int)
    for i, (a, b) in enumerate(zip(left_batch, right_batch, strict=True)):
        first[i], second[i] = row_major(one)[a], row_major(other)[b]
    for i, a in enumerate(rest, len(left_batch)):
        first[i] = row_major(one)[a]
    for i, b in enumerate(far, len(left_batch) + len(rest)):
        second[i] = row_major(other)[b]
    w.comment(op)
    kind = "float" if w.dtype(op.output) == "float32" else "int32_t"
    (_, read_x), (_, read_y) = operand(w, x), operand(w, y)
    at_x, at_y = index(sizes, first.tolist()), index(sizes, second.tolist())
    lines = [f"{kind} sum = 0;"]
    for j, (a, b) in enumerate(zip(left, right, strict=True)):
        lines.append(f"for (int j{j} = 0; j{j} < {one[a]}; j{j}++)")
        at_x += f" + j{j} * {row_major(one)[a]}"
        at_y += f" + j{j} * {row_major(other)[b]}"
    lines.append(f"  sum += {read_x.format(at=at_x)} * {read_y.format(at=at_y)};")
    places = {a: f"i{a}" if n != 1 else "0" for a, n in enumerate(sizes)}
    added = _bias(w, bias, p, places)
    to = w.make(op.output)
    w.loops(sizes, *lines, f"{to}[{index(sizes)}] = sum{added};")


def _bias(w: Writer, bias: list[int], p: dict, places: dict[int, str]) -> str:
    """Returns what is added to a sum: the bias of a channel, if there is one."""
    return f" + {w.name(bias[0])}[{places[p['bias_axis']]}]" if bias else ""


LAYERS = {"conv_general_dilated": convolution, "dot_general": product}
