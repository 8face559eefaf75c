"""Loops and branches, as ONNX nodes with graphs of their own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hcjax.export.onnx.writer import Writer, refuse
from hcjax.export.program import Program
from hcjax.graph.model import Graph, Op, Size


def scan(w: Writer, op: Op) -> None:
    """Writes a loop; ops that are other results of the same loop share its node."""
    params = op.params
    key = ("scan", id(w), op.inputs, id(params["body"]))
    if key not in w.notes:
        w.notes[key] = _scan(w, op), op  # the op, so that no other body takes its id
    results, _ = w.notes[key]
    w.put(op.output, results[params["result"]])


def _scan(w: Writer, op: Op) -> list[str]:
    params, body = op.params, op.params["body"]
    fixed, carry = params["constants"], params["carry"]
    outer = op.inputs[:fixed]
    states, parts = op.inputs[fixed : fixed + carry], op.inputs[fixed + carry :]
    slices = [w.get(i) for i in parts]
    inner = _inner(w, body, op.inputs, [0] * (fixed + carry) + [1] * len(parts))
    for number, i in zip(body.inputs, outer, strict=False):
        inner.put(number, w.get(i))
    given = []
    for number in body.inputs[fixed:]:
        name = w.name("part")
        inner.put(number, name)
        given.append((name, number))
    if not slices:
        slices = [w.const(np.zeros(params["length"]), np.float32)]
        given.append((w.name("step"), None))
    count = len(body.outputs)
    graph = _graph(inner, body, given)
    direction = int(params["reverse"])
    return _several(
        w.node(
            "Scan",
            [*(w.get(i) for i in states), *slices],
            count,
            body=graph,
            num_scan_inputs=len(slices),
            scan_input_directions=[direction] * len(slices),
            **({"scan_output_directions": [direction] * (count - carry)} if count > carry else {}),
        )
    )


def cond(w: Writer, op: Op) -> None:
    """Writes a branch: the one of an index, which is clipped to those that there are."""
    index, *operands = op.inputs
    place = w.cast(w.get(index), np.int32)
    for i in operands:
        w.get(i)  # here, so that no branch alone holds an order of axes that both need
    branches = list(op.params["branches"])
    result = op.params["result"]
    w.put(op.output, _switch(w, op, place, operands, branches, result, 0))


def _switch(w: Writer, op: Op, place: str, operands: Sequence[int], branches: list[Graph],
            result: int, first: int) -> str:  # fmt: skip
    """Adds nested Ifs: the first branch if the place is not above its own."""
    if len(branches) == 1:
        return _inline(w, branches[0], operands, result)
    test = w.node("LessOrEqual", [place, w.const(first, np.int32)])
    graphs = []
    for chosen in (branches[:1], branches[1:]):
        inner = Writer(w.found, w.root)
        inner.values = dict(w.values)
        name = _switch(inner, op, place, operands, chosen, result, first + 1)
        graphs.append(_named(inner, [inner.node("Identity", [name])], []))
    return w.node("If", [test], then_branch=graphs[0], else_branch=graphs[1])


def _inline(w: Writer, body: Graph, operands: Sequence[int], result: int) -> str:
    inner = _inner(w, body, operands, [0] * len(operands))
    inner.nodes = w.nodes
    for number, i in zip(body.inputs, operands, strict=True):
        inner.put(number, w.get(i))
    _run(inner)
    return inner.get(body.outputs[result])


def _inner(w: Writer, body: Graph, operands: Sequence[int], dropped: Sequence[int]) -> Writer:
    """Returns the writer of a body. dropped: how many first axes of an operand it does not see."""
    shapes = {n: w.shape(i)[d:] for n, i, d in zip(body.inputs, operands, dropped, strict=False)}
    dtypes = {n: w.dtype(i) for n, i in zip(body.inputs, operands, strict=False)}
    shapes |= {op.output: tuple(Size(*s) for s in op.shape) for op in body.ops}
    dtypes |= {op.output: op.dtype for op in body.ops}
    model = w.found.model.replace(graph=body)
    return Writer(Program(model, body.ops, dict(body.constants), shapes, dtypes), w.root)


def _run(inner: Writer) -> None:
    emitters = inner.notes["emitters"]
    for op in inner.found.ops:
        if op.kind not in emitters:
            raise refuse(op, "is in the body of a loop or a branch, and has no form")
        emitters[op.kind](inner, op)


def _graph(inner: Writer, body: Graph, given: list[tuple[str, int | None]]):
    _run(inner)
    results = [inner.node("Identity", [inner.get(number)]) for number in body.outputs]
    return _named(inner, results, given)


def _named(inner: Writer, results: list[str], given: list[tuple[str, int | None]]):
    helper, code = inner.onnx.helper, inner.code
    inputs = [
        helper.make_tensor_value_info(
            name, code(np.float32 if number is None else inner.dtype(number)), None
        )
        for name, number in given
    ]
    outputs = [inner.onnx.helper.make_empty_tensor_value_info(name) for name in results]
    return helper.make_graph(inner.nodes, inner.name("body"), inputs, outputs)


def _several(names: str | list[str]) -> list[str]:
    return [names] if isinstance(names, str) else names


EMITTERS = {"scan": scan, "cond": cond}
