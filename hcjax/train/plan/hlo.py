"""Readings of a compiled TPU program: its work, memory, traffic and communication.

In: the result of `lowered.compile()`; its text is optimised and scheduled HLO. Out: plain numbers
per device, among them the collectives with their shapes and groups, and the bytes that operations
read from and write to the chip's main memory (HBM).
"""

from __future__ import annotations

import math
import re
from typing import Any, NamedTuple

_COLLECTIVES = (
    "all-reduce|all-gather|reduce-scatter|all-to-all|ragged-all-to-all|collective-permute|"
    "collective-broadcast|send|recv|infeed|outfeed"
)
_COLLECTIVE = re.compile(rf"\s({_COLLECTIVES})(?:-start)?\(")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.+)$")
_OPCODE = re.compile(r"\s([a-z][\w\-]*)\(")
# f32[16,24]{1,0:T(8,128)(2,1)S(1)}: dtype, sizes, minor-to-major order, tile, memory space
_SHAPE = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\](?:\{([\d,]*)(?::([^}]*))?\})?")
_FREE = {"parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all", "iota"}


class Collective(NamedTuple):
    """One communication between chips, as compiled.

    kind: e.g. "all-reduce". shapes: ((dtype, sizes), ...) of its results. size_bytes: of those.
    group: the number of devices that take part together, 0 for all. groups: how many of these.
    """

    kind: str
    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    size_bytes: int
    group: int
    groups: int


def facts(compiled: Any) -> dict:
    """Reads the compiler's facts of a program, per device.

    Args:
      compiled: a `jax.stages.Compiled`.

    Returns:
      flops, bytes_accessed (operands in on-chip memory included), hbm_bytes (see `hbm_bytes`);
      bytes of HBM that hold arguments, results (those that do not reuse an argument's),
      temporaries and the program itself; collectives, as dicts.
    """
    cost, memory, text = compiled.cost_analysis(), compiled.memory_analysis(), compiled.as_text()
    return {
        "flops": cost["flops"],
        "bytes_accessed": cost["bytes accessed"],
        "hbm_bytes": hbm_bytes(text),
        "arguments": memory.argument_size_in_bytes,
        "results": memory.output_size_in_bytes - memory.alias_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "program": memory.generated_code_size_in_bytes,
        "collectives": [c._asdict() for c in collectives(text)],
    }


def collectives(text: str) -> list[Collective]:
    """Returns every collective of a program, in the order of its text.

    Args:
      text: optimised HLO.

    Note:
      One inside a loop is listed once.

    Example:
      >>> line = "  %r = (f32[3,2]{1,0}, f32[]) all-reduce(%a, %b), replica_groups={{0,1},{2,3}}"
      >>> collectives(line)[0][2:]
      (28, 2, 2)
    """
    rows = []
    for line in text.splitlines():
        match = _INSTRUCTION.match(line)
        kind = match and _COLLECTIVE.search(" " + match[2].split(", channel_id=")[0])
        if not kind:
            continue
        results = match[2][: kind.start()]
        if kind[0].endswith("-start(") and kind[1] != "all-reduce":
            results = _second(results)  # their type is (operands, results, contexts)
        shapes = tuple((s.dtype, s.sizes) for s in _shapes(results))
        size = int(sum(_itemsize(dtype) * math.prod(sizes) for dtype, sizes in shapes))
        group, groups = _groups(match[2])
        rows.append(Collective(kind[1], shapes, size, group, groups))
    return rows


def hbm_bytes(text: str) -> int:
    """Counts the bytes that a scheduled program reads from HBM and writes to it.

    The compiler keeps some buffers in the chip's fast memory and marks those buffers with a memory
    space, S(1); they cost no HBM traffic. An operation counts the buffers without a mark that it
    reads and writes, with the padding of their tiles.

    Args:
      text: optimised HLO; its entry computation is read.

    Note:
      An operation that reads part of a buffer counts all of it. A loop counts its operands.
    """
    entry = text[text.index("\nENTRY") :] if "\nENTRY" in text else text
    shapes, total = {}, 0
    for line in entry.splitlines():
        match = _INSTRUCTION.match(line)
        if not match:
            continue
        body = re.sub(r"/\*.*?\*/", "", match[2])
        opcode = _OPCODE.search(body)
        if not opcode:
            continue
        results, rest = body[: opcode.start()], body[opcode.end() :]
        shapes[match[1]] = _shapes(results)
        name = opcode[1]
        if name in _FREE or name.endswith("-done") or "ConcatBitcast" in rest:
            continue
        operands = re.findall(r"%([\w.\-]+)", rest[: rest.index(")")])
        if name in ("copy-start", "slice-start"):  # a copy that runs beside other work
            source, copy = shapes[match[1]][:2]
            total += min(source.padded, copy.padded) * (source.in_hbm + copy.in_hbm)
            continue
        read = {operand: shapes.get(operand, []) for operand in operands}
        for buffers in [shapes[match[1]], *read.values()]:
            total += sum(s.padded for s in buffers if s.in_hbm)
    return total


class _Shape(NamedTuple):
    """One array of a program: its type, sizes, bytes with the padding of tiles, and place."""

    dtype: str
    sizes: tuple[int, ...]
    padded: int
    in_hbm: bool


def _shapes(text: str) -> list[_Shape]:
    """Returns the arrays of a result's type, tuples flattened."""
    shapes = []
    for dtype, sizes, order, layout in _SHAPE.findall(re.sub(r"/\*.*?\*/", "", text)):
        sizes = tuple(int(size) for size in sizes.split(",") if size)
        minor_first = [sizes[int(axis)] for axis in order.split(",") if axis] or list(sizes)
        tile = re.match(r"T\(([\d,]+)\)", layout)
        for axis, step in enumerate(reversed(tile[1].split(","))) if tile else ():
            if axis < len(minor_first):
                minor_first[axis] = -(-minor_first[axis] // int(step)) * int(step)
        padded = int(math.prod(minor_first) * _itemsize(dtype))
        shapes.append(_Shape(dtype, sizes, padded, re.search(r"S\(\d+\)", layout) is None))
    return shapes


def _itemsize(dtype: str) -> float:
    """Returns the bytes of one element."""
    if dtype == "pred":
        return 1
    bits = re.search(r"\d+", dtype)
    return int(bits[0]) / 8 if bits else 0


def _second(results: str) -> str:
    """Returns the results of an asynchronous start, whose type is (operands, results, ...)."""
    depth, parts, start = 0, [], 1
    for place, letter in enumerate(results):
        depth += letter in "({["
        depth -= letter in ")}]"
        if (letter == "," and depth == 1) or (letter == ")" and depth == 0):
            parts.append(results[start:place])
            start = place + 1
    return parts[1] if len(parts) > 1 else results


def _groups(text: str) -> tuple[int, int]:
    """Returns (devices in a group, number of groups) of a collective, in any notation of XLA."""
    mesh = re.search(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}", text)
    if mesh:
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", mesh[1]))
        group = math.prod(int(sizes[axis]) for axis in re.findall(r"'([^']+)'", mesh[2]))
        return group, math.prod(map(int, sizes.values())) // group
    tiled = re.search(r"replica_groups=\[(\d+),(\d+)\]<=", text)
    if tiled:
        return int(tiled[2]), int(tiled[1])
    listed = re.search(r"replica_groups=\{(\{[\d,]*\}(?:,\{[\d,]*\})*)\}", text)
    if listed:
        lists = re.findall(r"\{([\d,]+)\}", listed[1])
        return len(lists[0].split(",")), len(lists)
    return 0, 1
