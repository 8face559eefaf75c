"""Sorting along an axis, by inserting positions."""

from __future__ import annotations

from hcjax.errors import ConfigError
from hcjax.export.c.writer import Writer, index, row_major
from hcjax.graph.model import Op


def ordered(w: Writer, op: Op) -> None:
    """Writes sort or top_k along an axis; equal numbers keep their order."""
    p, keys = op.params, op.inputs[: op.params.get("num_keys", 1)]
    if len(keys) != 1:
        raise ConfigError(f"C cannot be written: {op.kind} ({op.source}) by several keys")
    n, largest = op.inputs[0], op.kind == "top_k"
    axis = p["axis" if largest else "dimension"] % len(w.sizes(n))
    sizes, strides = w.sizes(n), row_major(w.sizes(n))
    outer = [1 if a == axis else m for a, m in enumerate(sizes)]
    count, stride = sizes[axis], strides[axis]
    kept = w.sizes(op.output)[axis]
    w.comment(op)
    positions = w.buffer("int32_t", count)
    key, to = w.name(n), w.make(op.output)
    base = index(outer, strides)
    mine, other = f"{key}[{base} + j * {stride}]", f"{key}[{base} + {positions}[k - 1] * {stride}]"
    before = f"{mine} > {other}" if largest else f"{mine} < {other}"
    if w.dtype(n) == "float32":  # NaN is above all
        one, two = (mine, other) if largest else (other, mine)
        before = f"({before} || ({one} != {one} && {two} == {two}))"
    if largest and p["result"] == 1:
        value = f"{positions}[j]"
    else:
        source = w.name(op.inputs[0 if largest else p["result"]])
        value = f"{source}[{base} + {positions}[j] * {stride}]"
    out = row_major(w.sizes(op.output))
    w.loops(
        outer,
        f"for (int j = 0; j < {count}; j++) {{",
        "  int k = j;",
        f"  for (; k > 0 && {before}; k--) {positions}[k] = {positions}[k - 1];",
        f"  {positions}[k] = j;",
        "}",
        f"for (int j = 0; j < {kept}; j++)",
        f"  {to}[{index(outer, out)} + j * {out[axis]}] = {value};",
    )


SORTING = {"sort": ordered, "top_k": ordered}
