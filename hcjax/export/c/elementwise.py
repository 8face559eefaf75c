"""Functions of the numbers at the same place, as expressions of C."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hcjax.errors import ConfigError
from hcjax.export.c.writer import TYPES, Writer, broadcast, index, number
from hcjax.graph.model import Op

_BOOL = ("eq", "ne", "lt", "le", "gt", "ge", "is_finite")


def _call(name: str) -> Callable[..., str]:
    return lambda p, *x: f"{name}({', '.join(x)})"


def _infix(sign: str) -> Callable[..., str]:
    return lambda p, x, y: f"({x} {sign} {y})"


def _power(p: dict, x: str) -> str:
    """Multiplies as jax does: by squares."""
    exponent = abs(p["y"])
    if exponent == 0:
        return "1"
    square, found = x, ""
    while exponent:
        if exponent & 1:
            found = square if not found else f"({found} * {square})"
        exponent >>= 1
        square = f"({square} * {square})"
    return found if p["y"] > 0 else f"(1.0f / {found})"


# kind -> function of (params, operands) that returns the expression, of floats
FLOAT = {
    "abs": _call("fabsf"), "acos": _call("acosf"), "acosh": _call("acoshf"), "add": _infix("+"),
    "asin": _call("asinf"), "asinh": _call("asinhf"), "atan": _call("atanf"),
    "atan2": _call("atan2f"), "atanh": _call("atanhf"), "cbrt": _call("cbrtf"),
    "ceil": _call("ceilf"), "cos": _call("cosf"), "cosh": _call("coshf"), "div": _infix("/"),
    "erf": _call("erff"), "erfc": _call("erfcf"), "exp": _call("expf"), "exp2": _call("exp2f"),
    "expm1": _call("expm1f"), "floor": _call("floorf"), "integer_pow": _power,
    "is_finite": lambda p, x: f"(isfinite({x}) != 0)", "lgamma": _call("lgammaf"),
    "log": _call("logf"), "log1p": _call("log1pf"),
    "logistic": lambda p, x: f"(1.0f / (1.0f + expf(-{x})))",
    "max": _call("larger"), "min": _call("smaller"), "mul": _infix("*"),
    "neg": lambda p, x: f"(-{x})", "nextafter": _call("nextafterf"), "pow": _call("powf"),
    "relu": lambda p, x: f"larger({x}, 0.0f)",
    "relu6": lambda p, x: f"smaller(larger({x}, 0.0f), 6.0f)", "rem": _call("fmodf"),
    "round": lambda p, x: f"{'roundf' if int(p['rounding_method']) == 0 else 'rintf'}({x})",
    "rsqrt": lambda p, x: f"(1.0f / sqrtf({x}))",
    "sign": lambda p, x: f"({x} > 0.0f ? 1.0f : {x} < 0.0f ? -1.0f : {x})", "sin": _call("sinf"),
    "sinh": _call("sinhf"), "sqrt": _call("sqrtf"), "square": lambda p, x: f"({x} * {x})",
    "sub": _infix("-"), "tan": _call("tanf"), "tanh": _call("tanhf"),
    "clamp": lambda p, low, x, high: f"smaller(larger({x}, {low}), {high})",
}  # fmt: skip
# of integers and truth values
WHOLE = {
    "abs": lambda p, x: f"({x} < 0 ? -{x} : {x})", "add": _infix("+"), "and": _infix("&"),
    "div": _infix("/"), "max": lambda p, x, y: f"({x} > {y} ? {x} : {y})",
    "min": lambda p, x, y: f"({x} < {y} ? {x} : {y})", "mul": _infix("*"),
    "neg": lambda p, x: f"(-{x})", "or": _infix("|"), "rem": _infix("%"), "sub": _infix("-"),
    "square": lambda p, x: f"({x} * {x})", "xor": _infix("^"),
    "sign": lambda p, x: f"(({x} > 0) - ({x} < 0))", "integer_pow": _power,
    "relu": lambda p, x: f"({x} > 0 ? {x} : 0)",
    "clamp": lambda p, low, x, high: f"({x} < {low} ? {low} : {x} > {high} ? {high} : {x})",
    "shift_left": lambda p, x, y: f"({y} >= 0 && {y} < 32 ? shifted({x}, {y}) : 0)",
    "shift_right_arithmetic": lambda p, x, y: f"({x} >> ({y} >= 0 && {y} < 32 ? {y} : 31))",
}  # fmt: skip
# of either
ANY = {
    "eq": _infix("=="), "ne": _infix("!="), "lt": _infix("<"), "le": _infix("<="),
    "gt": _infix(">"), "ge": _infix(">="),
}  # fmt: skip


def read(w: Writer, n: int, sizes: Sequence[int]) -> str:
    """Returns the number of a value at the place i0, i1, ... of a shape, as an expression.

    Integers of 8 bits are int32_t.
    """
    value = w.constant(n)
    if value is not None and value.size == 1:
        v = value.reshape(-1)[0].item()
        return number(v) if value.dtype.kind == "f" else f"({int(v)})"
    text = f"{w.name(n)}[{index(sizes, broadcast(w.sizes(n), sizes))}]"
    return f"((int32_t){text} - 128)" if w.dtype(n) == "int8" else text


def written(w: Writer, n: int, value: str) -> str:
    """Returns an expression as a value's array has it."""
    dtype = w.dtype(n)
    if dtype == "int8":
        return f"(uint8_t)({value} + 128)"
    return f"({TYPES[dtype]}){value}" if dtype != "float32" else value


def elementwise(w: Writer, op: Op) -> None:
    """Writes a function of the numbers at the same place."""
    floats = w.dtype(op.inputs[-1]) == "float32"
    rule = ANY.get(op.kind) or (FLOAT if floats else WHOLE).get(op.kind)
    if op.kind == "not":
        rule = (lambda p, x: f"!{x}") if w.dtype(op.output) == "bool" else (lambda p, x: f"~{x}")
    if rule is None:
        raise ConfigError(
            f"C cannot be written: it has no form of {op.kind} of {w.dtype(op.inputs[-1])} "
            f"({op.source})"
        )
    sizes = w.sizes(op.output)
    w.comment(op)
    names, lines = [], []
    for i, n in enumerate(op.inputs):
        dtype = w.dtype(n)
        kind = "float" if dtype == "float32" else "uint32_t" if dtype == "uint32" else "int32_t"
        names.append(f"x{i}")
        lines.append(f"const {kind} x{i} = {read(w, n, sizes)};")
    to = w.make(op.output)
    w.loops(
        sizes, *lines, f"{to}[{index(sizes)}] = {written(w, op.output, rule(op.params, *names))};"
    )


def selected(w: Writer, op: Op) -> None:
    """Writes select_n: the case that a truth value or an integer says."""
    which, *cases = op.inputs
    sizes = w.sizes(op.output)
    w.comment(op)
    pick, found = read(w, which, sizes), [read(w, n, sizes) for n in cases]
    value = found[-1]
    for k in reversed(range(len(cases) - 1)):
        value = f"({pick} == {k} ? {found[k]} : {value})"
    to = w.make(op.output)
    w.loops(sizes, f"{to}[{index(sizes)}] = {written(w, op.output, value)};")


def converted(w: Writer, op: Op) -> None:
    """Writes the same numbers in another dtype, as XLA converts: the nearest that there is."""
    (n,), sizes = op.inputs, w.sizes(op.output)
    theirs, ours = w.dtype(n), w.dtype(op.output)
    if theirs == ours:
        w.alias(op.output, n)
        return
    w.comment(op)
    x = read(w, n, sizes)
    if ours == "bool":
        value = f"({x} != 0)"
    elif theirs == "float32" and ours != "float32":
        value = f"whole({x})"
    elif ours == "float32":
        value = f"(float){x}"
    else:
        value = x
    to = w.make(op.output)
    w.loops(sizes, f"{to}[{index(sizes)}] = {written(w, op.output, value)};")


ELEMENTWISE = dict.fromkeys(sorted({*FLOAT, *WHOLE, *ANY, "not"}), elementwise)
ELEMENTWISE |= {"select_n": selected, "convert_element_type": converted}
