"""`trace`: reads any library's network, once, into a Model.

In: `apply(params, images) -> logits` and example images. Out: its graph. `jit` and remat are
inlined. relu stays one op with its own derivative; other custom derivative rules are listed in
`Model.plain`. Values that do not depend on the images stay expressions of the parameters.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import export

from hcjax import trees
from hcjax.core import walker
from hcjax.graph.model import Graph, Model, Op, live_ops
from hcjax.graph.tracing.batch_axis import Place, Value, find_places
from hcjax.graph.tracing.reader import Reader, batch_size_error

_RANDOM = ("random_bits", "random_split", "random_fold_in", "threefry2x32", "rng_uniform")
_TRAINING = "the network is in training mode; use inference mode (train=False, .eval(), ...)"
_INDEPENDENCE = (
    "the logits of an image must not depend on the others, nor on where it stands among them; keep "
    "the first axis, that of the images, out of this op"
)


def trace(apply: Callable, params: Any, images: Any, *, frozen: str = "") -> Model:
    """Returns the network as a Model: its function, its parameters and its graph.

    Args:
      apply: `apply(params, images) -> logits`, of any library, in inference mode. It must not ask
        for the batch size as a number, because it is traced for all batch sizes at once.
      params: pytree of its parameters and, if its library keeps them together, of running
        statistics, keys and counters.
      images: float array [N, ...]; only the shape of an image and the dtype are used.
      frozen: regular expression of whole paths of float leaves that training must not change,
        e.g. ".*/(mean|var)" for running statistics that are in `params`.

    Returns:
      Model. Its params are the float leaves on which the logits depend and that are not frozen, as
      a dict of path -> array; a weight that is used twice is one leaf. All others are constants.

    Raises:
      TypeError: if the network is in training mode (it draws random bits, or reduces over the
        batch), if the logits of an image depend on the other images in any other way, if its
        result is not one array [N, K], or if it needs the batch size as a number; the message
        names the user's line.
      ConfigError: if `frozen` is not a regular expression or matches no leaf.

    Example:
      >>> params = {"w": jnp.ones((4, 3)), "b": jnp.zeros(3)}
      >>> model = trace(lambda p, x: jax.nn.relu(x @ p["w"] + p["b"]), params, jnp.ones((1, 4)))
      >>> [op.kind for op in model.graph.ops][-2:], model.paths
      (['add', 'relu'], ('b', 'w'))
      >>> model.apply(model.params, jnp.ones((2, 4))).tolist()
      [[4.0, 4.0, 4.0], [4.0, 4.0, 4.0]]
    """
    images = jnp.asarray(images)
    leaves = trees.paths(params)
    frozen_mask = dict(trees.paths(trees.select(params, frozen))) if frozen else {}
    (batch,) = export.symbolic_shape("b")
    example = jax.ShapeDtypeStruct((batch, *images.shape[1:]), images.dtype)
    try:
        jaxpr = jax.make_jaxpr(apply)(params, example)
    except Exception as error:
        if not isinstance(error, jax.errors.JAXTypeError) and not _is_symbolic(error):
            raise
        raise batch_size_error(_find_line(error), error) from error
    reader = Reader(batch)
    numbers = [reader.number() for _ in leaves]
    images_number = reader.number()
    outputs = reader.read(jaxpr, [*numbers, images_number])
    logits = jaxpr.out_avals
    if len(outputs) != 1 or len(logits[0].shape) != 2 or reader.size(logits[0].shape[0]) != (1, 0):
        shapes = ", ".join(a.str_short(short_dtypes=True) for a in logits)
        raise TypeError(
            f"the network must return one array [N, K], got {shapes}; in training mode some "
            "libraries return new statistics too: use inference mode"
        )
    ops = live_ops(reader.ops, outputs[0])
    live = {i for op in ops for i in op.inputs} | {outputs[0]}
    constants = {k: v for k, v in reader.constants.items() if k in live}
    parameters, dropped, frozen_numbers = {}, [], []
    for (path, leaf), number in zip(leaves, numbers, strict=True):
        if number not in live:
            dropped.append(path)
        elif jnp.issubdtype(leaf.dtype, jnp.inexact) and not frozen_mask.get(path):
            parameters[path] = (number, leaf)
        else:
            constants[number] = leaf
            frozen_numbers.append((path, number))
    _check_inference(ops, reader, images_number, outputs[0])
    return Model(
        Graph(
            tuple(ops),
            images_number,
            outputs[0],
            {p: n for p, (n, _) in parameters.items()},
            constants,
            tuple(frozen_numbers),
        ),
        {path: leaf for path, (_, leaf) in parameters.items()},
        tuple(sorted(parameters)),
        tuple(images.shape[1:]),
        images.dtype,
        tuple(dropped),
        tuple(reader.plain),
    )


def _check_inference(ops: list[Op], reader: Reader, images: int, logits: int) -> None:
    """Raises TypeError if a network draws random bits or mixes the examples of a batch."""
    places: dict[int, Place | None] = {images: Place(0, 1)}
    for op in ops:
        location = f"{op.source or 'an unknown line'} ({op.kind})"
        if op.kind in _RANDOM:
            raise TypeError(f"{location} draws random bits: {_TRAINING}")
        operands = [Value(reader.shapes[i], places.get(i)) for i in op.inputs]
        try:
            results = find_places(op, operands, [reader.shapes[o] for o in op.outputs])
        except ValueError as error:
            advice = _TRAINING if "reduces" in str(error) else _INDEPENDENCE
            raise TypeError(f"{location} {error}: {advice}") from error
        places |= zip(op.outputs, results, strict=True)
    for op in ops:  # last: an average over the batch is a reduction first
        if op.kind == "dim_as_value":
            raise batch_size_error(op.source, f"it computes with {op.params['dim']}")
    if ops and places.get(logits) != Place(0, 1):
        raise TypeError(f"{location} gives the images' logits in another order: {_INDEPENDENCE}")


def _is_symbolic(error: Exception) -> bool:
    """Returns whether an error is about a symbolic size."""
    return any(word in str(error) for word in ("_DimExpr", "symbolic", "Symbolic"))


def _find_line(error: Exception) -> str:
    """Returns the user's line that raised an error."""
    frames = traceback.extract_tb(error.__traceback__)
    frames = [
        f for f in frames if walker.is_user_code(f.filename) and "/hcjax/graph/" not in f.filename
    ]
    return f"{frames[-1].filename.rsplit('/', 1)[-1]}:{frames[-1].lineno}" if frames else ""
