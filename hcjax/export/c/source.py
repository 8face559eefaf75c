"""`c(model)`: a network as one file of C11 and a header, which need nothing but the C library."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import NamedTuple

import jax

from hcjax.core import brief
from hcjax.errors import ConfigError, unknown_name
from hcjax.export.c import blocks, coded, products
from hcjax.export.c.elementwise import ELEMENTWISE
from hcjax.export.c.layers import LAYERS
from hcjax.export.c.moves import MOVES
from hcjax.export.c.reductions import REDUCTIONS
from hcjax.export.c.rounding import ROUNDING
from hcjax.export.c.sorting import SORTING
from hcjax.export.c.writer import TYPES, Writer
from hcjax.export.program import Program, program, walk
from hcjax.graph.interface import names
from hcjax.graph.model import Model

HERE = Path(__file__).parent
PRIMITIVES, CODED = HERE / "primitives.c", HERE / "coded.c"
WEIGHTS = ("plain", "coded")
# kind of op -> function of (writer, op)
EMITTERS = {**LAYERS, **ELEMENTWISE, **MOVES, **REDUCTIONS, **ROUNDING, **SORTING}


class Source(NamedTuple):
    """A network in C. files: name -> text. memory: bytes that a context holds. name: the prefix of
    its functions.
    """

    files: dict[str, str]
    memory: int
    name: str

    __repr__ = brief.record


def c(model: Model, *, name: str = "network", weights: str = "plain") -> Source:
    """Returns a network as C11: a file and a header, without allocation, files or other libraries.

    An integer network gives the bits of `int8.apply` wherever `Model.floats` is empty, on any
    processor: with AVX-512 VNNI, with AVX2, with NEON's dot products, or in plain C, as the
    compiler is told. Ops in float are computed one after the other, with the C library's functions.

    Args:
      model: in float or integers. float32, int32 and smaller integers.
      name: prefix of the functions, an identifier of C.
      weights: "plain": arrays, for vectors; "coded": a stream of bits that skips zeros, for layers
        of 8-bit integers that it makes smaller by a quarter or more. The results are the same.

    Returns:
      Source with `NAME.c` and `NAME.h`. Compile with -O3 -ffp-contract=off, and -march=native.

    Raises:
      ConfigError: if there is no form in C of an op or a dtype; it names the user's lines.
      ValueError: if the name is no identifier, or `weights` is another word.

    Example:
      >>> import jax.numpy as jnp
      >>> from hcjax import trace
      >>> model = trace(lambda p, x: x @ p["w"], {"w": jnp.ones((3, 2))}, jnp.ones((1, 3)))
      >>> source = c(model, name="tiny")
      >>> sorted(source.files), "void tiny_run(" in source.files["tiny.c"]
      (['tiny.c', 'tiny.h'], True)
    """
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
        raise ValueError(f"name must be an identifier of C, got {name!r}")
    if weights not in WEIGHTS:
        raise ValueError(unknown_name("weights", weights, WEIGHTS))
    found = program(model)
    w = Writer(found)
    together = blocks.blocks(found)
    w.done = blocks.covered(together)
    w.reads = _reads(found, together)
    inputs = _arguments(w, model.graph.inputs, names(model.inputs, "images"), model.inputs)
    outputs = _arguments(
        w, model.graph.outputs, names(model.outputs, "logits"), model.outputs, "out"
    )
    for n, argument in zip(model.graph.inputs, inputs, strict=True):
        w.give(n, argument.name)

    parts = {PRIMITIVES}

    def emitter(kind):
        def emit(w, op):
            w.step += 1
            if op.output in together:
                parts.add(_layer(w, together[op.output], weights))
            elif op.output not in w.done:
                EMITTERS[kind](w, op)

        return emit

    walk(found, {kind: emitter(kind) for kind in EMITTERS}, w, "C")
    w.step += 1
    for n, argument in zip(model.graph.outputs, outputs, strict=True):
        count = argument.count
        value = f"{w.name(n)}[i]"
        value = f"(int8_t)({value} - 128)" if argument.kind == "int8_t" else value
        w.add(f"for (int i = 0; i < {count}; i++) {argument.name}[i] = {value};")
    declared, size = w.memory()
    read = "\n".join(file.read_text() for file in (PRIMITIVES, CODED) if file in parts)
    return Source(_texts(name, read, w, declared, max(size, 64), inputs, outputs), size, name)


def _layer(w: Writer, block: blocks.Block, weights: str) -> Path:
    """Writes a layer with what stands around it, and returns the file whose functions it needs."""
    loops = blocks.loops(w, block)
    found = None
    if weights == "coded":
        kernel = loops.kernel
        found = coded.code(kernel.transpose(3, 0, 1, 2).reshape(kernel.shape[3], -1))
    if found is None:
        products.write(w, block, loops)
        return PRIMITIVES
    coded.write(w, block, loops, found)
    return CODED


def _reads(found: Program, together: dict[int, blocks.Block]) -> dict[int, int]:
    """Returns number -> the last step, of those that are counted from 1, in which it is read."""
    steps = {op.output: i for i, op in enumerate(found.ops, 1)}
    for block in together.values():
        steps |= {op.output: steps[block.last.output] for op in block.ops}
    result = dict.fromkeys(found.model.graph.outputs, len(steps) + 1)
    for op in found.ops:
        for n in op.inputs:
            result[n] = max(result.get(n, 0), steps[op.output])
    return result


class Argument(NamedTuple):
    """An argument of the functions. count: numbers of one example. batched: whether each has its
    own.
    """

    name: str
    kind: str
    count: int
    batched: bool


def _arguments(w, numbers, called, interface, prefix="in") -> list[Argument]:
    """Returns the arguments for inputs or outputs, in the order of the network's own.

    Their names begin as no other name in a file does: a user's may be `int`, or that of a local.
    """
    leaves, found, taken = jax.tree.leaves(interface), [], set()
    for n, name, leaf in zip(numbers, called, leaves, strict=True):
        word = f"{prefix}_{re.sub('[^A-Za-z0-9]+', '_', name)}"
        while word in taken:
            word += "_"
        taken.add(word)
        count = math.prod(leaf.shape)
        kind = TYPES[w.dtype(n)]
        if w.dtype(n) == "int8":
            if prefix == "in":
                raise ConfigError(f"C cannot be written: {name} is int8; take int32 or float32")
            kind = "int8_t"
        found.append(Argument(word, kind, count, leaf.batched))
    return found


def _texts(name, read, w, declared, size, inputs, outputs) -> dict[str, str]:
    """Returns the two files."""
    taken = ", ".join(
        [f"const {a.kind} *{a.name}" for a in inputs] + [f"{a.kind} *{a.name}" for a in outputs]
    )
    moved = ", ".join(
        f"{a.name} + (size_t)i * {a.count}" if a.batched else a.name for a in (*inputs, *outputs)
    )
    guard = f"{name.upper()}_H"
    shapes = "\n".join(
        f"   {a.name}: {a.kind}[{a.count}]{'' if a.batched else ', the same for all examples'}"
        for a in (*inputs, *outputs)
    )
    header = f"""/* {name}: written by hcjax. One context for each thread; nothing else is kept.
{shapes} */
#ifndef {guard}
#define {guard}
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {{
#endif
#define {name.upper()}_BYTES {size}
typedef struct {{
  union {{
    unsigned char bytes[{name.upper()}_BYTES + 64];
    double aligned;
  }} memory;
}} {name}_context;
extern const size_t {name}_context_size;
/* computes one example */
void {name}_run({name}_context *context, {taken});
/* computes n examples, one after the other */
void {name}_batch({name}_context *context, {taken}, size_t n);
#ifdef __cplusplus
}}
#endif
#endif
"""
    body = "\n".join(f"  {line}" for line in w.lines)
    lines = "\n".join(f"  {line}" for line in declared)
    source = f"""#include "{name}.h"
{read}
{"".join(w.constants)}
const size_t {name}_context_size = sizeof({name}_context);

void {name}_run({name}_context *context, {taken}) {{
  unsigned char *memory = context->memory.bytes;
  memory += (64 - (uintptr_t)memory % 64) % 64;
{lines}
{body}
}}

void {name}_batch({name}_context *context, {taken}, size_t n) {{
  for (size_t i = 0; i < n; i++) {name}_run(context, {moved});
}}
"""
    return {f"{name}.c": source, f"{name}.h": header}
