"""`onnx`: a Model as the bytes of an .onnx file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from hcjax.errors import ConfigError
from hcjax.export.onnx import (
    control,
    elementwise,
    exact,
    gather,
    layers,
    movement,
    pools,
    qdq,
    reduction,
)  # fmt: skip
from hcjax.export.onnx.qdq_writer import QdqWriter
from hcjax.export.onnx.writer import IR, OPSET, Writer
from hcjax.export.program import program, walk
from hcjax.graph import interface
from hcjax.graph.model import Model, Op
from hcjax.version import VERSION

FLOAT: dict[str, Callable[[Writer, Op], None]] = {
    **elementwise.EMITTERS,
    **movement.EMITTERS,
    **gather.EMITTERS,
    **reduction.EMITTERS,
    **pools.EMITTERS,
    **layers.EMITTERS,
    **control.EMITTERS,
}
# form -> kind of op -> its emitter
EXACT = {**FLOAT, **exact.EMITTERS}
QDQ = {**EXACT, **{kind: qdq.moves(FLOAT[kind]) for kind in qdq.MOVES}, **qdq.EMITTERS}
FORMS = {"float": (Writer, FLOAT), "exact": (Writer, EXACT), "qdq": (QdqWriter, QDQ)}
_MOST = 2**31 - 1  # bytes of a protobuf


def onnx(model: Model, *, form: str = "float") -> bytes:
    """Returns a network as an .onnx file for any size of the batch, IR 9 and opset 20.

    Inputs and outputs are arrays, named by their places in the trees that the network takes and
    gives; "images" and "logits" if there is one.

    Args:
      model: in float for the form "float", from `int8` for the others.
      form: "float"; "qdq", which runtimes fuse to integer kernels of their own, whose rounding
        differs; or "exact", which computes the integers of hcjax, bit for bit.

    Raises:
      ConfigError: if the form is unknown or does not fit the model, or ONNX cannot say an op.
      DependencyError: if the package onnx is not installed.

    Example:
      >>> import jax.numpy as jnp
      >>> from hcjax import trace
      >>> model = trace(lambda p, x: x @ p["w"], {"w": jnp.ones((3, 2))}, jnp.ones((1, 3)))
      >>> len(onnx(model)) < 400  # doctest: +SKIP
      True
    """
    if form not in FORMS:
        raise ConfigError(f"form must be one of {', '.join(FORMS)}, got {form!r}")
    integers = any(op.kind in exact.ROUNDED for op in model.graph.ops)
    if any(op.kind == "step" for op in model.graph.ops):
        raise ConfigError("a fake-quantized model is for training: export int8(model)")
    if integers != (form != "float"):
        fits = 'in integers: give form="qdq" or "exact"' if integers else 'in float: form="float"'
        raise ConfigError(f"form {form!r} does not fit the model, which is {fits}")
    make, emitters = FORMS[form]
    w = make(program(model))
    w.notes["emitters"] = EXACT if form == "qdq" else emitters  # of bodies, which are in float
    given, made = _names(model)
    w.taken = frozenset([*given, *made])
    inputs = _add_inputs(w, model, given)
    walk(w.found, emitters, w, "ONNX")
    outputs = _add_outputs(w, model, made)
    nodes, read = _live(w.nodes, outputs)
    constants = [value for name, value in w.initializers.items() if name in read]
    graph = w.onnx.helper.make_graph(nodes, "hcjax", inputs, outputs, constants)
    file = w.onnx.helper.make_model(
        graph,
        opset_imports=[w.onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR,
        producer_name="hcjax",
        producer_version=VERSION,
    )
    if file.ByteSize() > _MOST:
        raise ConfigError(
            f"the network has {file.ByteSize():,} bytes; an .onnx file holds {_MOST:,}"
        )
    return file.SerializeToString(deterministic=True)


def _names(model: Model) -> tuple[list[str], list[str]]:
    """Returns the names of the inputs and of the outputs, which are other ones in ONNX."""
    given, made = interface.names(model.inputs, "images"), interface.names(model.outputs, "logits")
    taken = {*given, *made}
    for place, name in enumerate(made):
        if name in given:
            while name in taken:
                name += "_out"
            made[place] = name
            taken.add(name)
    return given, made


def _add_inputs(w: Writer, model: Model, names: list[str]) -> list[Any]:
    """Records the inputs, and returns what they are."""
    found, w.notes["inputs"] = [], {}
    for number, name, leaf in zip(
        model.graph.inputs, names, jax.tree.leaves(model.inputs), strict=True
    ):
        sizes = list(leaf.sizes("N"))
        found.append(w.onnx.helper.make_tensor_value_info(name, w.code(leaf.dtype), sizes))
        w.notes["inputs"][number] = name
        half = np.dtype(leaf.dtype) != w.dtype(number)
        w.put(number, w.cast(name, w.dtype(number)) if half else name)
    return found


def _add_outputs(w: Writer, model: Model, names: list[str]) -> list[Any]:
    """Names the outputs, and returns what they are."""
    found = []
    for number, name, leaf in zip(
        model.graph.outputs, names, jax.tree.leaves(model.outputs), strict=True
    ):
        result = w.get(number)
        result = w.cast(result, leaf.dtype) if np.dtype(leaf.dtype) != w.dtype(number) else result
        w.nodes.append(w.onnx.helper.make_node("Identity", [result], [name], name=name))
        sizes = list(leaf.sizes("N"))
        found.append(w.onnx.helper.make_tensor_value_info(name, w.code(leaf.dtype), sizes))
    return found


def _live(nodes: list[Any], outputs: list[Any]) -> tuple[list[Any], set[str]]:
    """Returns the nodes on which the outputs depend, in order, and all names that they read."""
    needed, live = {output.name for output in outputs}, []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            live.append(node)
            needed |= _read(node)
    return live[::-1], needed


def _read(node: Any) -> set[str]:
    """Returns the names that a node reads, or a node of a body that it has."""
    found = set(node.input)
    for attribute in node.attribute:
        if attribute.HasField("g"):
            found.update(output.name for output in attribute.g.output)
            found = found.union(*map(_read, attribute.g.node))
    return found
