"""Control flow of a traced network: loops are unrolled where they are short, or kept as one op.

A scan has a known length. A while loop is read if its condition depends on no input: it is
computed while tracing. A branch stays one op. The functions here are parts of `Reader`, their first
argument.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from hcjax.core import walker
from hcjax.graph.model import Graph, Op, Size, live_ops
from hcjax.graph.ops.control import bodies
from hcjax.graph.ops.table import defined

_UNROLLED = 512  # equations of an unrolled scan, at most
_WHILE = 4096  # of an unrolled while loop


def read_scan(reader: Any, eqn: walker.Eqn, inputs: list[int], source: str) -> list[int]:
    """Reads a scan, and returns the numbers of its results."""
    closed = walker.as_closed(eqn.params["jaxpr"])
    length, reverse = eqn.params["length"], eqn.params["reverse"]
    if not isinstance(length, int):
        raise TypeError(f"{source or 'an unknown line'}: a scan loops over the images of a batch")
    # which operands are which has another form in each release of jax; ranks say it in all
    body = closed.jaxpr
    carry = sum(
        len(outer.aval.shape) == len(inner.aval.shape)
        for outer, inner in zip(eqn.outvars, body.outvars, strict=True)
    )
    sliced = sum(
        len(outer.aval.shape) > len(inner.aval.shape)
        for outer, inner in zip(eqn.invars, body.invars, strict=True)
    )
    constants = len(inputs) - carry - sliced
    if length * sum(1 for _ in walker.equations(closed)) <= _UNROLLED and length:
        counts = (constants, carry, length, reverse)
        return _unroll(reader, eqn, inputs, source, *counts)
    graph, arrays = _body(reader, closed, source)
    params = {"constants": constants + len(arrays), "carry": carry, "length": length}
    params |= {"reverse": reverse, "body": graph, "batch": Size(1, 0)}
    macs = length * sum(op.macs for op in graph.ops)
    return _keep(reader, "scan", (*arrays, *inputs), eqn, source, params, macs)


def read_while(reader: Any, eqn: walker.Eqn, inputs: list[int], source: str) -> list[int]:
    """Reads a while loop whose condition depends on no input, step by step."""
    condition = walker.as_closed(eqn.params["cond_jaxpr"])
    body = walker.as_closed(eqn.params["body_jaxpr"])
    carry = len(body.jaxpr.outvars)
    first, second = len(condition.jaxpr.invars) - carry, len(body.jaxpr.invars) - carry
    fixed, values = inputs[first : first + second], inputs[first + second :]
    where = source or "an unknown line"
    left = _WHILE
    while True:
        (number,) = reader.read(condition, [*inputs[:first], *values], source)
        going = reader.evaluate(number)
        if going is None:
            raise TypeError(
                f"{where}: how often this while loop runs depends on the inputs or the parameters; "
                "a graph holds loops of a known length: write it as a scan or a fori_loop"
            )
        if not going:
            return values
        left -= sum(1 for _ in walker.equations(body))
        if left < 0:
            raise TypeError(
                f"{where}: a while loop of more than {_WHILE:,} equations; write it as a scan or a "
                "fori_loop, which a graph keeps as one op"
            )
        values = reader.read(body, [*fixed, *values], source)
        for number in values:  # a counter: known, so that the next condition is computed at once
            if not reader.shapes.get(number) and (known := reader.evaluate(number)) is not None:
                reader.constants[number] = known


def read_cond(reader: Any, eqn: walker.Eqn, inputs: list[int], source: str) -> list[int]:
    """Reads a branch, and returns the numbers of its results."""
    branches, arrays = [], []
    for jaxpr in eqn.params["branches"]:
        graph, own = _body(reader, walker.as_closed(jaxpr), source)
        branches.append((graph, len(arrays), len(own)))
        arrays += own
    graphs = []
    for graph, start, count in branches:  # every branch takes the constants of all
        spare = iter(range(graph.last + 1, graph.last + 1 + len(arrays)))
        own = iter(graph.inputs[:count])
        taken = (
            next(own) if start <= i < start + count else next(spare) for i in range(len(arrays))
        )
        graphs.append(graph._replace(inputs=(*taken, *graph.inputs[count:])))
    index, *others = inputs
    params = {"branches": tuple(graphs), "batch": Size(1, 0)}
    macs = max(sum(op.macs for op in graph.ops) for graph in graphs)
    return _keep(reader, "cond", (index, *arrays, *others), eqn, source, params, macs)


def read_region(reader: Any, eqn: walker.Eqn, inputs: list[int], source: str) -> list[int]:
    """Reads a function that is kept as it is, as a branch without another one."""
    (body,) = (body for bodies in walker.nested_jaxprs(eqn).values() for body in bodies)
    graph, arrays = _body(reader, walker.as_closed(body), source)
    index = reader.number(np.int32(0))
    reader.shapes[index], reader.dtypes[index] = (), np.dtype(np.int32)
    macs = sum(op.macs for op in graph.ops)
    params = {"branches": (graph,), "batch": Size(1, 0)}
    return _keep(reader, "cond", (index, *arrays, *inputs), eqn, source, params, macs)


def counted_once(ops: Iterable[Op]) -> list[Op]:
    """Returns ops of which only the first with one body counts its MACs; the others share it."""
    seen, counted = set(), []
    for op in ops:
        key = tuple(map(id, bodies(op.params)))
        if key and key in seen:
            op = defined(op._replace(macs=0), params=op.params | {"macs": 0})
        seen.add(key)
        counted.append(op)
    return counted


def _unroll(
    reader: Any,
    eqn: walker.Eqn,
    inputs: list[int],
    source: str,
    constants: int,
    carry: int,
    length: int,
    reverse: bool,
) -> list[int]:
    fixed, values = inputs[:constants], inputs[constants : constants + carry]
    sliced = list(zip(inputs[constants + carry :], eqn.invars[constants + carry :], strict=True))
    parts: list[list[int]] = [[] for _ in eqn.outvars[carry:]]
    for step in range(length)[:: -1 if reverse else 1]:
        taken = [reader.part(number, v.aval, step, source) for number, v in sliced]
        results = reader.read(eqn.params["jaxpr"], [*fixed, *values, *taken], source)
        values = results[:carry]
        for each, number in zip(parts, results[carry:], strict=True):
            each.append(number)
    stacked = [
        reader.stacked(each[:: -1 if reverse else 1], v.aval, source)
        for each, v in zip(parts, eqn.outvars[carry:], strict=True)
    ]
    return [*values, *stacked]


def _body(reader: Any, closed: Any, source: str) -> tuple[Graph, list[int]]:
    """Reads a nested jaxpr as a graph; its constants come first among its inputs.

    Returns:
      The graph, and the numbers that its constants have outside.
    """
    inner = reader.nested()
    numbers = []
    for v in closed.jaxpr.invars:
        number = inner.number()
        inner.shapes[number] = tuple(map(inner.size, v.aval.shape))
        inner.dtypes[number] = v.aval.dtype
        numbers.append(number)
    outputs = inner.read(closed, numbers, source)
    ops = live_ops(inner.ops, outputs)
    used = {i for op in ops for i in op.inputs}.union(outputs)
    constants = [n for n in inner.constants if n in used]
    outside = []
    for n in constants:
        array = np.asarray(inner.constants[n])
        outside.append(reader.number(array))
        reader.shapes[outside[-1]] = tuple(Size(0, d) for d in array.shape)
        reader.dtypes[outside[-1]] = array.dtype
    reader.plain += inner.plain
    return Graph(tuple(ops), (*constants, *numbers), tuple(outputs), {}, {}), outside


def _keep(
    reader: Any,
    kind: str,
    inputs: tuple[int, ...],
    eqn: walker.Eqn,
    source: str,
    params: dict,
    macs: int,
) -> list[int]:
    """Adds one op for each result; those that nothing reads are dropped later."""
    outputs = []
    for i, v in enumerate(eqn.outvars):
        shape = tuple(map(reader.size, v.aval.shape))
        op = Op(kind, inputs, (0,), shape, v.aval.dtype, source, None, {}, macs)
        outputs.append(reader.emit(kind, inputs, shape, op, params | {"result": i, "macs": macs}))
    for v, n in zip((*eqn.invars,), inputs[len(inputs) - len(eqn.invars) :], strict=True):
        reader.shapes.setdefault(n, tuple(map(reader.size, v.aval.shape)))
        reader.dtypes.setdefault(n, v.aval.dtype)
    return outputs
