"""Sums, extremes and positions over axes, windows and what came before."""

from __future__ import annotations

from collections.abc import Sequence

from hcjax.errors import ConfigError
from hcjax.export.c.elementwise import written
from hcjax.export.c.writer import Writer, index, row_major
from hcjax.graph.model import Op

# dtype -> (least, greatest) number as C has it; integers of 8 bits as int32_t
ENDS = {
    "float32": ("-INFINITY", "INFINITY"), "int32": ("INT32_MIN", "INT32_MAX"),
    "int8": ("-128", "127"), "uint8": ("0", "255"), "bool": ("0", "1"),
    "int16": ("-32768", "32767"), "uint16": ("0", "65535"), "uint32": ("0u", "UINT32_MAX"),
}  # fmt: skip


def _step(kind: str, floats: bool) -> str:
    """Returns the statement that takes x into the number `sum`."""
    if kind.endswith("max"):
        return "sum = larger(sum, x);" if floats else "sum = x > sum ? x : sum;"
    if kind.endswith("min"):
        return "sum = smaller(sum, x);" if floats else "sum = x < sum ? x : sum;"
    name = kind.rpartition("_")[2].removeprefix("cum")
    sign = {"sum": "+", "prod": "*", "and": "&", "or": "|"}[name]
    return f"sum = sum {sign} x;"


def _start(kind: str, dtype: str) -> str:
    if kind.endswith("max"):
        return ENDS[dtype][0]
    if kind.endswith("min"):
        return ENDS[dtype][1]
    return "1" if kind.endswith(("prod", "and")) else "0"


def _types(w: Writer, n: int) -> tuple[str, str]:
    """Returns the type of a sum of a value's numbers, and how a number at `at` is read."""
    dtype, name = w.dtype(n), w.name(n)
    kind = "float" if dtype == "float32" else "uint32_t" if dtype == "uint32" else "int32_t"
    return kind, f"{name}[at] - 128" if dtype == "int8" else f"{name}[at]"


def reduced(w: Writer, op: Op) -> None:
    """Writes a reduction over axes."""
    (n,), axes = op.inputs, tuple(op.params["axes"])
    sizes, strides = w.sizes(n), row_major(w.sizes(n))
    kept = [a for a in range(len(sizes)) if a not in axes]
    outer, inner = [sizes[a] for a in kept], [sizes[a] for a in axes]
    w.comment(op)
    kind, value = _types(w, n)
    to = w.make(op.output)
    start = index(outer, [strides[a] for a in kept])
    lines = [f"{kind} sum = {_start(op.kind, w.dtype(n))};"]
    step = _step(op.kind, kind == "float")
    lines += _nested(inner, [strides[a] for a in axes], start, kind, value, step)
    w.loops(outer, *lines, f"{to}[{index(outer)}] = {written(w, op.output, 'sum')};")


def _nested(
    sizes: Sequence[int], strides: Sequence[int], start: str, kind: str, value: str, step: str
) -> list[str]:
    """Returns loops j0, j1, ... over some axes, which take each number into `sum`."""
    lines, at = [], start
    for a, (n, stride) in enumerate(zip(sizes, strides, strict=True)):
        lines.append(f"for (int j{a} = 0; j{a} < {n}; j{a}++)")
        at += f" + j{a} * {stride}"
    return [
        *lines,
        "{",
        f"  const int at = {at};",
        f"  const {kind} x = {value};",
        f"  {step}",
        "}",
    ]


def positioned(w: Writer, op: Op) -> None:
    """Writes argmax or argmin: the first position of the extreme, or of a NaN."""
    (n,), (axis,) = op.inputs, op.params["axes"]
    sizes, strides = w.sizes(n), row_major(w.sizes(n))
    kept = [a for a in range(len(sizes)) if a != axis]
    outer = [sizes[a] for a in kept]
    w.comment(op)
    kind, value = _types(w, n)
    sign = ">" if op.kind == "argmax" else "<"
    start = index(outer, [strides[a] for a in kept])
    to = w.make(op.output)
    better = f"x {sign} sum" + (" || (x != x && sum == sum)" if kind == "float" else "")
    w.loops(
        outer,
        f"int best = 0, at = {start};",
        f"{kind} sum = {value};",
        f"for (int j = 1; j < {sizes[axis]}; j++) {{",
        f"  at = {start} + j * {strides[axis]};",
        f"  const {kind} x = {value};",
        f"  if ({better}) {{ sum = x; best = j; }}",
        "}",
        f"{to}[{index(outer)}] = {written(w, op.output, 'best')};",
    )


def windowed(w: Writer, op: Op) -> None:
    """Writes a reduction over windows."""
    if op.output in w.done:
        return
    (n,), p = op.inputs, op.params
    if any(d != 1 for d in p["base_dilation"]):
        raise ConfigError(f"C cannot be written: {op.kind} ({op.source}) of a dilated array")
    sizes, own, strides = w.sizes(op.output), w.sizes(n), row_major(w.sizes(n))
    window, dilation = p["window_dimensions"], p["window_dilation"]
    w.comment(op)
    kind, value = _types(w, n)
    to = w.make(op.output)
    lines = [f"{kind} sum = {_start(op.kind, w.dtype(n))};"]
    at, close = [], 0
    for a, m in enumerate(window):
        place = f"i{a}" if sizes[a] != 1 else "0"
        lines.append(f"for (int j{a} = 0; j{a} < {m}; j{a}++) {{")
        low = int(p["padding"][a][0])
        lines.append(
            f"  const int k{a} = {place} * {p['window_strides'][a]} + j{a} * {dilation[a]} - {low};"
        )
        if any(p["padding"][a]):
            lines.append(f"  if (k{a} < 0 || k{a} >= {own[a]}) continue;")
        at.append(f"k{a} * {strides[a]}")
        close += 1
    lines += [f"const int at = {' + '.join(at) or 0};", f"const {kind} x = {value};"]
    lines += [_step(op.kind, kind == "float"), "}" * close]
    w.loops(sizes, *lines, f"{to}[{index(sizes)}] = {written(w, op.output, 'sum')};")


def accumulated(w: Writer, op: Op) -> None:
    """Writes what adds up, or the like, along an axis."""
    (n,), axis = op.inputs, op.params["axis"] % len(w.sizes(op.output))
    sizes, strides = w.sizes(n), row_major(w.sizes(n))
    outer = [1 if a == axis else m for a, m in enumerate(sizes)]
    w.comment(op)
    kind, value = _types(w, n)
    to, last = w.make(op.output), sizes[axis] - 1
    step = f"{last} - j" if op.params["reverse"] else "j"
    w.loops(
        outer,
        f"{kind} sum = {_start(op.kind, w.dtype(n))};",
        f"for (int j = 0; j <= {last}; j++) {{",
        f"  const int at = {index(outer, strides)} + ({step}) * {strides[axis]};",
        f"  const {kind} x = {value};",
        f"  {_step(op.kind, kind == 'float')}",
        f"  {to}[at] = {written(w, op.output, 'sum')};",
        "}",
    )


REDUCTIONS = dict.fromkeys(
    ("reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or"), reduced
)
REDUCTIONS |= dict.fromkeys(
    ("reduce_window_sum", "reduce_window_max", "reduce_window_min"), windowed
)
REDUCTIONS |= dict.fromkeys(("cumsum", "cummax", "cummin", "cumprod"), accumulated)
REDUCTIONS |= {"argmax": positioned, "argmin": positioned}
