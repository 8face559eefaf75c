"""Writes a kernel as a function of C.

In: a kernel. Out: the text of a loop over rows of as many elements as vector registers are filled
with at once, and how it is called. The same text serves all kernels that are alike.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from hcjax.accelerate.groups.find import Value
from hcjax.accelerate.groups.kernels import Kernel

_WIDTHS = (64, 1024)  # elements of a row: enough to fill registers, few enough to keep their sums
_REGISTER = 16  # elements of the widest vector registers
_BLOCK = 16  # rows summed in float32, then added in float64: equal numbers round alike each time

_STORED = {"float32": "float", "bool": "unsigned char"}
_HELD = {"float32": "float", "bool": "int"}

HEAD = """
#ifdef __FMA__
#define HCJAX_FMA(a, b, c) __builtin_fmaf(a, b, c)
#else
#define HCJAX_FMA(a, b, c) ((a) * (b) + (c))
#endif
"""

_FUNCTION = """
extern "C" void @(long begin, long end, const void* const* in, void* const* out, double* sums) {{
const long from = begin * {width}, n = end * {width} - from;
{before}
for (long first = 0; first < n; first += {block}) {{
const long last = n < first + {block} ? n : first + {block};
{zeros}
for (long i = first; i < last; i += {width})
for (int j = 0; j < {width}; ++j) {{
{inner}
}}
for (int j = 0; j < {width}; ++j) {{
{totals}
}}
}}
}}"""

_TEXT = {
    "add": "{0} + {1}",
    "add_any": "{0} + {1}",
    "sub": "{0} - {1}",
    "mul": "{0} * {1}",
    "div": "{0} / {1}",
    "copy": "{0}",
    "neg": "-{0}",
    "square": "{0} * {0}",
    "select_n": "{0} ? {2} : {1}",
    "gt": "{0} > {1}",
    "lt": "{0} < {1}",
    "ge": "{0} >= {1}",
    "le": "{0} <= {1}",
    "eq": "{0} == {1}",
    "ne": "{0} != {1}",
    "and": "{0} & {1}",
    "or": "{0} | {1}",
    "xor": "{0} ^ {1}",
    "not": "!{0}",
    "sqrt": "__builtin_sqrtf({0})",
    "abs": "__builtin_fabsf({0})",
    "sign": "{0} > 0 ? 1.0f : {0} < 0 ? -1.0f : {0} != {0} ? {0} : __builtin_copysignf(0, {0})",
}
# as in XLA NaN wins, and -0.0 is less than 0.0; the bits of equal numbers differ for zeros only
_BITS = "__builtin_bit_cast(float, __builtin_bit_cast(int, {0}) %s __builtin_bit_cast(int, {1}))"
_ENDS = {
    "max": "({0} > {1}) | ({0} != {0}) ? {0} : ({1} > {0}) | ({1} != {1}) ? {1} : " + _BITS % "&",
    "min": "({0} < {1}) | ({0} != {0}) ? {0} : ({1} < {0}) | ({1} != {1}) ? {1} : " + _BITS % "|",
}
_RELU = "({0} > 0) | ({0} != {0}) ? {0} : 0.0f"


class Loop(NamedTuple):
    """A kernel as C.

    text: of the function, named `@`. rows: how many it has. channels: numbers of a sum. arrays: the
    values of its results that are full, sums: those that are summed, in the results' order.
    """

    text: str
    rows: int
    channels: int
    arrays: list[Value]
    sums: list[Value]


def emit(kernel: Kernel) -> Loop:
    """Writes a kernel."""
    channels = kernel.shape[-1]
    rows = math.prod(kernel.shape[:-1])
    together = _rows_together(rows, channels)
    width = channels * together
    arrays = [t.value for t in kernel.targets if not t.total]
    sums = list(dict.fromkeys(t.value for t in kernel.targets if t.total))
    places = {v: i for i, v in enumerate(kernel.reads)}
    names = {value: f"r{places[v]}" for value, v in kernel.places.items()}
    before, inner = [], []
    for v in kernel.full:
        i, kind = places[v], v.aval.dtype.name
        before.append(f"const {_STORED[kind]}* __restrict a{i} = {_operand(i, kind)} + from;")
        inner.append(f"const {_HELD[kind]} r{i} = a{i}[i + j];")
    for value in kernel.small:
        i, kind = places[value.data], value.kind
        if value.op == "scalar":
            before.append(f"const {_HELD[kind]} s{i} = *{_operand(i, kind)};")
            names[value] = f"s{i}"
        else:
            before.append(f"{_STORED[kind]} v{i}[{width}];")
            copy = f"v{i}[j] = {_operand(i, kind)}[j % {channels}];"
            before.append(f"for (int j = 0; j < {width}; ++j) {copy}")
            names[value] = f"v{i}[j]"
    # a product in memory is rounded there, and so must be the same wherever it is computed
    products = {v for v in kernel.order if v.op in ("mul", "square")} - set(arrays)
    for value in kernel.order:
        if value in kernel.signs:
            text = f"r{places[kernel.signs[value]]} > 0"
        else:
            text = _contracted(value, names, products) or _expression(
                value, [_name(a, names) for a in value.args]
            )
        names[value] = f"t{len(names)}"
        inner.append(f"const {_HELD[value.kind]} {names[value]} = {text};")
    for i, value in enumerate(arrays):
        kind = _STORED[value.kind]
        before.append(f"{kind}* __restrict o{i} = ({kind}*)out[{i}] + from;")
        inner.append(f"o{i}[i + j] = {names[value]};")
    inner += [f"z{i}[j] += {names[value]};" for i, value in enumerate(sums)]
    zeros = [f"float z{i}[{width}] = {{0}};" for i in range(len(sums))]
    totals = [f"sums[{i * channels} + j % {channels}] += z{i}[j];" for i in range(len(sums))]
    text = _FUNCTION.format(
        width=width, block=_BLOCK * width, before="\n".join(before), inner="\n".join(inner),
        zeros="\n".join(zeros), totals="\n".join(totals),
    )  # fmt: skip
    return Loop(text, rows // together, channels, arrays, sums)


def _rows_together(rows: int, channels: int) -> int:
    """Returns how many rows to put together: a divisor, so that nothing is left over."""
    least, most = _WIDTHS
    divisors = [d for d in range(1, max(1, most // channels) + 1) if rows % d == 0]
    wide = [d for d in divisors if d * channels >= least]
    full = [d for d in wide if d * channels % _REGISTER == 0]
    return (full or wide or divisors[-1:])[0]


def _contracted(value: Value, names: dict[Value, str], products: set[Value]) -> str:
    """Returns a sum with a product as C that rounds once, as XLA does; '' for anything else."""
    if value.op not in ("add", "add_any", "sub"):
        return ""
    for i, product in enumerate(value.args):
        if product in products:
            a, b = (_name(v, names) for v in (product.args * 2)[:2])
            other = _name(value.args[1 - i], names)
            if value.op == "sub":
                a, other = (a, f"-({other})") if i == 0 else (f"-({a})", other)
            return f"HCJAX_FMA({a}, {b}, {other})"
    return ""


def _expression(value: Value, args: list[str]) -> str:
    """Returns an operation as C."""
    op = value.op
    if op in _ENDS and value.kind == "bool":
        return _TEXT["or" if op == "max" else "and"].format(*args)
    if op == "max" and args[1] == _number(0.0, "float32"):
        return _RELU.format(args[0])
    if op in _ENDS:
        return _ENDS[op].format(*args)
    if op == "integer_pow":
        return " * ".join(args * value.data)
    if op == "convert_element_type":
        return f"{args[0]} != 0" if value.kind == "bool" else f"(float){args[0]}"
    return _TEXT[op].format(*args)


def _name(value: Value, names: dict[Value, str]) -> str:
    return _number(value.data, value.kind) if value.op == "number" else names[value]


def _number(x: Any, kind: str) -> str:
    """Returns a number as C, with all its bits."""
    if kind == "bool":
        return str(int(bool(x)))
    x = float(np.float32(x))
    if math.isnan(x):
        return '__builtin_nanf("")'
    if math.isinf(x):
        return "__builtin_inff()" if x > 0 else "(-__builtin_inff())"
    return f"({x.hex()}f)" if x < 0 or math.copysign(1, x) < 0 else f"{x.hex()}f"


def _operand(i: int, kind: str) -> str:
    return f"((const {_STORED[kind]}*)in[{i}])"
