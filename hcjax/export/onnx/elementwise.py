"""Elementwise ops and casts as ONNX nodes: each a function of the names of its operands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hcjax.export.onnx.writer import Writer, refuse, thin_axes
from hcjax.graph.model import Op

# (writer, op, names of the operands) -> name of the result
Form = Callable[[Writer, Op, list[str]], str]


def emit(form: Form) -> Callable[[Writer, Op], None]:
    """Returns the emitter of an op that computes each number from those at the same place."""

    def emitter(w: Writer, op: Op) -> None:
        place(w, op, op.inputs, form)

    return emitter


def place(w: Writer, op: Op, inputs: Sequence[int], form: Form) -> None:
    """Writes a function of operands in one order of axes, and records the result in it."""
    rank = len(op.shape)
    wide = [i for i in inputs if len(w.shape(i)) == rank]
    perm = w.order(wide) if wide else tuple(range(rank))
    rows = rows_of(w, inputs)
    if rows is not None:
        names = [in_rows(w, i, rows) for i in inputs]
        w.put(op.output, form(w, op, names), rows=rows)
        return
    gaps = [_missing(w, op, i) if i in wide else frozenset(range(rank)) for i in inputs]
    names = [
        w.get(i, perm if i in wide else None, gap) for i, gap in zip(inputs, gaps, strict=True)
    ]
    missing = frozenset.intersection(*gaps) if gaps else frozenset()
    missing = frozenset(a for a in missing if op.shape[a] != (0, 1))
    w.put(op.output, form(w, op, names), perm, missing=missing)


def rows_of(w: Writer, inputs: Sequence[int]) -> np.ndarray | None:
    """Returns the order of rows that all computed operands have; None if there is no such."""
    computed = [w.value(i) for i in inputs if w.constant(i) is None]
    rows = computed[0].rows if computed else None
    return rows if all(value.rows is rows for value in computed) else None


def in_rows(w: Writer, number: int, rows: np.ndarray) -> str:
    """Returns the name of an operand, its last axis in the order of rows."""
    constant = w.constant(number)
    if constant is None:
        return w.value(number).name
    if constant.ndim and constant.shape[-1] == len(rows):
        constant = constant.take(rows, -1)
    return w.const(constant)


def _missing(w: Writer, op: Op, number: int) -> frozenset[int]:
    """Returns the axes along which an operand is constant, those of size 1 among them."""
    constant, shape = w.constant(number), w.shape(number)
    found = w.value(number).missing if constant is None else thin_axes(constant)
    return found | {a for a, size in enumerate(shape) if size != op.shape[a]}


def node(kind: str, **attributes: Any) -> Form:
    """Returns the form of one node."""
    return lambda w, op, xs: w.node(kind, xs, **attributes)


def chain(*kinds: str) -> Form:
    """Returns the form of nodes of one operand, one behind the other."""

    def form(w: Writer, op: Op, xs: list[str]) -> str:
        first, *others = kinds
        name = w.node(first, xs)
        for kind in others:
            name = w.node(kind, [name])
        return name

    return form


def wide(form: Form, *narrow: str, first: int = 0) -> Form:
    """Returns a form that computes dtypes in int64 for which ONNX Runtime has no kernel.

    narrow: names of these dtypes. first: operand of numbers; those before it stay as they are.
    """

    def through(w: Writer, op: Op, xs: list[str]) -> str:
        if w.dtype(op.inputs[first]).name not in narrow:
            return form(w, op, xs)
        xs = [x if i < first else w.cast(x, np.int64) for i, x in enumerate(xs)]
        return w.cast(form(w, op, xs), w.dtype(op.output))

    return through


def _like(w: Writer, op: Op, value: Any) -> str:
    """Returns the name of a number in the dtype of an op's first operand."""
    return w.const(value, w.dtype(op.inputs[0]))


def _relu6(w: Writer, op: Op, xs: list[str]) -> str:
    return w.node("Clip", [*xs, _like(w, op, 0), _like(w, op, 6)])


def _clamp(w: Writer, op: Op, xs: list[str]) -> str:
    low, x, high = xs
    if not w.shape(op.inputs[0]) and not w.shape(op.inputs[2]):
        return w.node("Clip", [x, low, high])
    return w.node("Min", [w.node("Max", [x, low]), high])


def _max(w: Writer, op: Op, xs: list[str]) -> str:
    for i, x in zip(op.inputs, reversed(xs), strict=True):
        constant = w.constant(i)
        if constant is not None and not constant.any() and w.dtype(i) == np.float32:
            return w.node("Relu", [x])
    return w.node("Max", xs)


def _integer_pow(w: Writer, op: Op, xs: list[str]) -> str:
    (x,), power = xs, op.params["y"]
    if 2 <= abs(power) <= 4:
        y = w.node("Mul", [x, x])
        y = y if abs(power) == 2 else w.node("Mul", [y, x if abs(power) == 3 else y])
    else:
        y = w.node("Pow", [x, _like(w, op, abs(power))])
    return w.node("Reciprocal", [y]) if power < 0 else y


def _log1p(w: Writer, op: Op, xs: list[str]) -> str:
    one, (x,) = _like(w, op, 1), xs
    above = w.node("Add", [x, one])
    ratio = w.node("Div", [x, w.node("Sub", [above, one])])
    y = w.node("Mul", [w.node("Log", [above]), ratio])
    return w.node("Where", [w.node("Equal", [above, one]), x, y])


def _expm1(w: Writer, op: Op, xs: list[str]) -> str:
    half = w.node("Tanh", [w.node("Mul", [*xs, _like(w, op, 0.5)])])
    return w.node("Mul", [half, w.node("Add", [w.node("Exp", xs), _like(w, op, 1)])])


def _cbrt(w: Writer, op: Op, xs: list[str]) -> str:
    root = w.node("Pow", [w.node("Abs", xs), _like(w, op, 1 / 3)])
    return w.node("Mul", [w.node("Sign", xs), root])


def _atan2(w: Writer, op: Op, xs: list[str]) -> str:
    y, x = xs
    zero, pi = _like(w, op, 0), _like(w, op, np.pi)
    plain = w.node("Atan", [w.node("Div", [y, x])])
    below = w.node("Less", [y, zero])
    turned = w.node("Where", [below, w.node("Sub", [plain, pi]), w.node("Add", [plain, pi])])
    found = w.node("Where", [w.node("Less", [x, zero]), turned, plain])
    upright = w.node("Mul", [w.node("Sign", [y]), _like(w, op, np.pi / 2)])
    return w.node("Where", [w.node("Equal", [x, zero]), upright, found])


def _is_finite(w: Writer, op: Op, xs: list[str]) -> str:
    either = w.node("Or", [w.node("IsInf", xs), w.node("IsNaN", xs)])
    return w.node("Not", [either])


def _select(w: Writer, op: Op, xs: list[str]) -> str:
    which, *cases = xs
    if w.dtype(op.inputs[0]) == np.bool_:
        return w.node("Where", [which, cases[1], cases[0]])
    found = cases[0]
    for k, case in enumerate(cases[1:], 1):
        found = w.node("Where", [w.node("Equal", [which, _like(w, op, k)]), case, found])
    return found


def _bits(logical: str, bitwise: str) -> Form:
    def form(w: Writer, op: Op, xs: list[str]) -> str:
        return w.node(logical if w.dtype(op.inputs[0]) == np.bool_ else bitwise, xs)

    return form


def _shift(direction: str) -> Form:
    def form(w: Writer, op: Op, xs: list[str]) -> str:
        dtype = w.dtype(op.inputs[0])
        unsigned = np.dtype(f"uint{8 * dtype.itemsize}")
        found = w.node("BitShift", [w.cast(x, unsigned) for x in xs], direction=direction)
        return w.cast(found, dtype)

    return form


def _shift_arithmetic(w: Writer, op: Op, xs: list[str]) -> str:
    number, count = (w.cast(x, np.float64) for x in xs)  # exact: below 2^53
    power = w.node("Pow", [w.const(2.0, np.float64), count])
    return w.cast(w.node("Floor", [w.node("Div", [number, power])]), w.dtype(op.inputs[0]))


def _round(w: Writer, op: Op, xs: list[str]) -> str:
    if op.params["rounding_method"] == 1 or "EVEN" in str(op.params["rounding_method"]):
        return w.node("Round", xs)
    away = w.node("Floor", [w.node("Add", [w.node("Abs", xs), _like(w, op, 0.5)])])
    return w.node("Mul", [w.node("Sign", xs), away])


def _reduce_precision(w: Writer, op: Op, xs: list[str]) -> str:
    import ml_dtypes

    forms = {(8, 7): ml_dtypes.bfloat16, (5, 10): np.float16, (8, 23): np.float32}
    bits = op.params["exponent_bits"], op.params["mantissa_bits"]
    if bits not in forms:
        raise refuse(op, f"to {bits[0]} bits of exponent and {bits[1]} of mantissa has no dtype")
    return w.cast(w.cast(xs[0], forms[bits]), w.dtype(op.inputs[0]))


def _convert(w: Writer, op: Op, xs: list[str]) -> str:
    (name,), old, new = xs, w.dtype(op.inputs[0]), np.dtype(op.params["new_dtype"])
    if old.kind == "f" and new.kind in "iu":  # beyond the ends of the integers: those ends; NaN: 0
        ends = [w.const(end, np.float64) for end in (np.iinfo(new).min, np.iinfo(new).max)]
        number = w.node("Where", [w.node("IsNaN", xs), w.const(0, old), name])
        name = w.node("Clip", [w.cast(number, np.float64), *ends])
    name = w.cast(name, new)
    return w.cast(name, w.dtype(op.output)) if new != w.dtype(op.output) else name


def _rem(w: Writer, op: Op, xs: list[str]) -> str:
    return w.node("Mod", xs, fmod=1)


_ONE_NODE = {
    "abs": "Abs", "acos": "Acos", "acosh": "Acosh", "add": "Add", "asin": "Asin", "asinh": "Asinh",
    "atan": "Atan", "atanh": "Atanh", "ceil": "Ceil", "cos": "Cos", "cosh": "Cosh", "div": "Div",
    "eq": "Equal", "erf": "Erf", "exp": "Exp", "floor": "Floor", "ge": "GreaterOrEqual",
    "gt": "Greater", "le": "LessOrEqual", "log": "Log", "logistic": "Sigmoid", "lt": "Less",
    "min": "Min", "mul": "Mul", "neg": "Neg", "pow": "Pow", "relu": "Relu", "sign": "Sign",
    "sin": "Sin", "sinh": "Sinh", "sqrt": "Sqrt", "sub": "Sub", "tan": "Tan", "tanh": "Tanh",
}  # fmt: skip

FORMS: dict[str, Form] = {
    **{kind: node(name) for kind, name in _ONE_NODE.items()},
    "and": _bits("And", "BitwiseAnd"),
    "or": _bits("Or", "BitwiseOr"),
    "xor": _bits("Xor", "BitwiseXor"),
    "not": _bits("Not", "BitwiseNot"),
    "ne": chain("Equal", "Not"),
    "rsqrt": chain("Sqrt", "Reciprocal"),
    "square": lambda w, op, xs: w.node("Mul", [*xs, *xs]),
    "exp2": lambda w, op, xs: w.node("Pow", [_like(w, op, 2), *xs]),
    "erfc": lambda w, op, xs: w.node("Sub", [_like(w, op, 1), w.node("Erf", xs)]),
    "expm1": _expm1,
    "log1p": _log1p,
    "cbrt": _cbrt,
    "atan2": _atan2,
    "integer_pow": _integer_pow,
    "is_finite": _is_finite,
    "max": wide(_max, "bool", "int16", "uint16"),
    "min": wide(node("Min"), "bool", "int16", "uint16"),
    **{kind: wide(node(_ONE_NODE[kind]), "bool") for kind in ("ge", "gt", "le", "lt")},
    "neg": wide(node("Neg"), "uint8", "uint16", "uint32"),
    "relu6": _relu6,
    "clamp": wide(_clamp, "int16", "uint16"),
    "rem": _rem,
    "round": _round,
    "select_n": wide(_select, "bool", "int16", "uint16", first=1),
    "shift_left": _shift("LEFT"),
    "shift_right_logical": _shift("RIGHT"),
    "shift_right_arithmetic": _shift_arithmetic,
    "reduce_precision": _reduce_precision,
    "convert_element_type": _convert,
    "stop_gradient": lambda w, op, xs: xs[0],
    "copy": lambda w, op, xs: xs[0],
}
EMITTERS = {kind: emit(form) for kind, form in FORMS.items()}
