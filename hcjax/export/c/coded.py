"""Products of a block with its weights as a stream of bits: small, and no work for zeros.

Each weight is read once for an example and multiplied with all that it meets, so reading it takes
little time beside a convolution's sums; `coded.c` has the loops.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hcjax.export.c.blocks import Block, Loops, made
from hcjax.export.c.writer import Writer, number
from hcjax.graph.ops.fixed_point import pre_shift

MOST = 0.75  # of a kernel's bytes that its code may take; else its weights are written plainly


class Code(NamedTuple):
    """Weights as bits. stream: bytes, the lowest bit first. values: int8, the frequent ones first.
    count: of weights in the stream. zeros, place: k of the codes; zeros is -1 where weights of 0
    are in the stream like any others.
    """

    stream: np.ndarray
    values: np.ndarray
    count: int
    zeros: int
    place: int


def code(weights: np.ndarray) -> Code | None:
    """Returns weights as bits, or None where that saves too little.

    A weight is the number of zeros before it, and its place among the values, both in Rice's code:
    n >> k ones and a zero, then the k lowest bits of n. Each k is the best for the layer.

    Args:
      weights: [O, K], int8.

    Example:
      >>> found = code(np.eye(8, 40, dtype=np.int8))
      >>> found.stream.nbytes, found.values.tolist(), found.count, found.zeros, found.place
      (8, [1], 8, 4, 0)
    """
    flat = weights.reshape(-1)
    sparse, whole = _skipping(flat), _every(flat)
    found = min(sparse, whole, key=lambda each: each.stream.nbytes + each.values.nbytes)
    return found if found.stream.nbytes + found.values.nbytes <= MOST * flat.nbytes else None


def _skipping(flat: np.ndarray) -> Code:
    at = np.flatnonzero(flat)
    zeros = np.diff(at, prepend=-1) - 1
    values, place = _places(flat[at])
    k, j = _best(zeros), _best(place)
    pairs = np.stack([zeros, place], 1).reshape(-1)
    return Code(_stream(pairs, np.tile([k, j], at.size)), values, at.size, k, j)


def _every(flat: np.ndarray) -> Code:
    values, place = _places(flat)
    k = _best(place)
    return Code(_stream(place, np.full(place.size, k)), values, place.size, -1, k)


def _places(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (values, the frequent ones first; place of each weight among them)."""
    values, index, times = np.unique(weights, return_inverse=True, return_counts=True)
    order = np.argsort(-times, kind="stable")
    return values[order], np.argsort(order)[index.reshape(-1)]


def _best(numbers: np.ndarray) -> int:
    """Returns the k with which the codes of numbers are the shortest."""
    return min(range(16), key=lambda k: int((numbers >> k).sum()) + k * numbers.size)


def _stream(numbers: np.ndarray, ks: np.ndarray) -> np.ndarray:
    """Returns the bytes of the codes of numbers, each with its own k."""
    ones = numbers >> ks
    lengths = ones + 1 + ks
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    ones, ks, numbers = (np.repeat(x, lengths) for x in (ones, ks, numbers))
    low = np.maximum(ones + ks - within, 0)  # which of the k bits it is, behind the ones and a zero
    bits = np.where(within < ones, 1, np.where(within == ones, 0, numbers >> low & 1))
    return np.packbits(bits.astype(np.uint8), bitorder="little")


def write(w: Writer, block: Block, loops: Loops, found: Code) -> None:
    """Writes a block whose weights are a stream."""
    kh, kw, channels, count = loops.kernel.shape
    (oh, ow), (wh, ww) = loops.shape, loops.window
    sizes = (kh, kw, channels, loops.height, loops.width, oh, ow, *loops.strides, *loops.padding)
    w.comment(block.last, f", from {loops.height}x{loops.width}x{channels} by {kh}x{kw}, coded")
    name = f"k{block.layer.output}"
    numbers = (found.count, found.zeros, found.place, *sizes, loops.fill)
    arrays = w.data("uint8_t", found.stream), w.data("int8_t", found.values)
    w.constants.append(
        f"static const coded {name} = {{{', '.join([*arrays, *map(str, numbers)])}}};\n"
    )
    source = w.name(loops.source)
    acc = w.buffer("int32_t", oh * ow)
    other = None if block.other is None else w.name(block.other)
    to = made(w, block, source)
    w.add("{", f"  reader r = reading(&{name});", f"  for (int o = 0; o < {count}; o++) {{")
    w.add(f"    summed(&r, o, {source}, {acc});")
    if block.pool:
        w.add(f"    largest({oh}, {ow}, {wh}, {ww}, {acc});")
    w.add(f"    for (int p = 0; p < {(oh // wh) * (ow // ww)}; p++)")
    w.add(f"      {to}[p * {count} + o] = {_value(w, block, acc, other, count)};", "  }", "}")


def _value(w: Writer, block: Block, acc: str, other: str | None, count: int) -> str:
    """Returns what becomes of the sum acc[p] of output o."""
    op = block.after
    if op is None:
        return f"{acc}[p]"
    if op.kind == "dequantize":
        offset = f" + {_constant(w, op.inputs[2])}" if len(op.inputs) > 2 else ""
        return f"(float)({acc}[p]{offset}) * {_constant(w, op.inputs[1])}"
    factors = dict(zip(block.terms, op.inputs[len(block.terms) :], strict=False))
    bounds = dict(zip(block.terms, op.params["bounds"], strict=True))
    offset, shift = (_constant(w, n) for n in op.inputs[-2:])
    total = []
    for n in block.terms:
        term = f"{acc}[p]" if n == block.layer.output else f"{other}[p * {count} + o] - 128"
        total.append(f"mulhi(shifted({term}, {pre_shift(bounds[n])}), {_constant(w, factors[n])})")
    value = f"({' + '.join([*total, offset])}) >> {shift}"
    return f"(uint8_t)(clipped({value}, {op.params['least']}, {op.params['most']}) + 128)"


def _constant(w: Writer, n: int) -> str:
    """Returns a constant at output o, in as few bytes as it needs."""
    value = np.ravel(w.constant(n))
    if value.dtype.kind == "f":
        if (value == value[0]).all():
            return number(value[0])
        return f"{w.data('float', value)}[o]"
    if (value == value[0]).all():
        return str(value[0])
    fits = [t for t in (np.int8, np.int16) if (value == value.astype(t)).all()]
    narrow = np.dtype(fits[0] if fits else np.int32).name
    return f"{w.data(f'{narrow}_t', value.astype(narrow))}[o]"
