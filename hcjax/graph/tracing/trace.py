"""`trace`: reads any library's network, once, into a Model.

In: `apply(params, *inputs) -> outputs` and example inputs. Out: its graph. `jit` and remat are
inlined. relu stays one op with its own derivative; other custom derivative rules are listed in
`Model.plain`. Values that do not depend on the inputs stay expressions of the parameters.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import export

from hcjax import trees
from hcjax.core import walker
from hcjax.graph.interface import Leaf, leaf_of, names
from hcjax.graph.model import Graph, Model, Op, live_ops
from hcjax.graph.tracing.batch_axis import Place, Value, find_places
from hcjax.graph.tracing.control import counted_once
from hcjax.graph.tracing.reader import Reader, batch_size_error

_RANDOM = ("random_bits", "random_split", "random_fold_in", "threefry2x32", "rng_uniform")
_TRAINING = "the network is in training mode; use inference mode (train=False, .eval(), ...)"
_INDEPENDENCE = (
    "the outputs of an image must not depend on the others, nor on where it stands among them; "
    "keep the first axis, that of the images, out of this op"
)


def trace(
    apply: Callable, params: Any, *inputs: Any, images: Any = None, frozen: str = ""
) -> Model:
    """Returns the network as a Model: its function, its parameters and its graph.

    Args:
      apply: `apply(params, *inputs) -> outputs`, of any library, in inference mode. It must not ask
        for the batch size as a number, because it is traced for all batch sizes at once. Outputs
        are a tree of arrays, with the examples on their first axis.
      params: pytree of its parameters and, if its library keeps them together, of running
        statistics, keys and counters.
      inputs: examples of its arguments: trees of arrays [N, ...] of any dtype, e.g. images, or
        int32 tokens and their masks. A number, of shape (), is one for the whole batch. Only the
        shapes of one example and the dtypes are used. images: the last of them, as a keyword.
      frozen: regular expression of whole paths of float leaves that training must not change,
        e.g. ".*/(mean|var)" for running statistics that are in `params`.

    Returns:
      Model. Its params are the float leaves on which the outputs depend and that are not frozen, as
      a dict of path -> array; a weight that is used twice is one leaf. All others are constants.
      Its `apply` gives the network's own tree of outputs.

    Raises:
      TypeError: if the network is in training mode (it draws random bits, or reduces over the
        batch), if the outputs of an example depend on other examples in any other way, if an output
        does not have the examples on its first axis, if no input has, or if the network needs the
        batch size as a number; the message names the user's line.
      ConfigError: if `frozen` is not a regular expression or matches no leaf, or two arrays have
        the same path.

    Example:
      >>> params = {"w": jnp.ones((4, 3)), "b": jnp.zeros(3)}
      >>> model = trace(lambda p, x: jax.nn.relu(x @ p["w"] + p["b"]), params, jnp.ones((1, 4)))
      >>> [op.kind for op in model.graph.ops][-2:], model.paths
      (['add', 'relu'], ('b', 'w'))
      >>> model.apply(model.params, jnp.ones((2, 4))).tolist()
      [[4.0, 4.0, 4.0], [4.0, 4.0, 4.0]]
    """
    inputs = inputs if images is None else (*inputs, images)
    interface = jax.tree.map(lambda x: leaf_of(jnp.asarray(x)), inputs)
    if not any(leaf.batched for leaf in jax.tree.leaves(interface)):
        raise TypeError("give example inputs, trace(apply, params, images): arrays [N, ...]")
    leaves = trees.by_path(params).items()
    frozen_mask = dict(trees.paths(trees.select(params, frozen))) if frozen else {}
    (batch,) = export.symbolic_shape("b")
    abstract = jax.tree.map(lambda leaf: leaf.abstract(batch), interface)
    try:
        jaxpr, results = jax.make_jaxpr(apply, return_shape=True)(params, *abstract)
    except Exception as error:
        if not isinstance(error, jax.errors.JAXTypeError) and not _is_symbolic(error):
            raise
        raise batch_size_error(_find_line(error), error) from error
    reader = Reader(batch)
    numbers = [reader.number() for _ in leaves]
    given = [reader.number(leaf=leaf) for leaf in jax.tree.leaves(interface)]
    outputs = reader.read(jaxpr, [*numbers, *given])
    ops = counted_once(live_ops(reader.ops, outputs))
    live = {i for op in ops for i in op.inputs}.union(outputs)
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
    places = _find_places(ops, reader, [n for n in given if reader.shapes[n]])
    described = _describe_outputs(results, outputs, reader, places)
    return Model(
        Graph(
            tuple(ops),
            tuple(given),
            tuple(outputs),
            {p: n for p, (n, _) in parameters.items()},
            constants,
            tuple(frozen_numbers),
        ),
        {path: leaf for path, (_, leaf) in parameters.items()},
        tuple(sorted(parameters)),
        interface,
        described,
        tuple(dropped),
        tuple(reader.plain),
    )


def _find_places(ops: list[Op], reader: Reader, batched: list[int]) -> dict[int, Place | None]:
    """Returns where each number holds the examples of a batch.

    Raises:
      TypeError: if the network draws random bits or mixes the examples.
    """
    places: dict[int, Place | None] = dict.fromkeys(batched, Place(0, 1))
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
    return places


def _describe_outputs(
    results: Any, numbers: Sequence[int], reader: Reader, places: dict[int, Place | None]
) -> Any:
    """Returns the tree of outputs as `Leaf`, after checking that examples are on the first axis."""
    shapes, treedef = jax.tree.flatten(results)
    if not shapes:
        raise TypeError("the network must return an array, or a tree of arrays; it returns none")
    leaves = []
    for name, number, x in zip(names(results, "the result"), numbers, shapes, strict=True):
        sizes, place = tuple(map(reader.size, x.shape)), places.get(number)
        if place is None and not any(size.q for size in sizes):
            if sizes:
                raise TypeError(
                    f"{name}, {x.dtype}{list(x.shape)}, does not depend on the inputs; in training "
                    "mode some libraries return new statistics too: use inference mode"
                )
        elif place != Place(0, 1):
            raise TypeError(
                f"{name}, {x.dtype}{list(x.shape)}, must have the examples on its first axis, in "
                f"order: {_INDEPENDENCE}"
            )
        leaves.append(Leaf(tuple(size.r for size in sizes[1:]), x.dtype, bool(sizes)))
    return jax.tree.unflatten(treedef, leaves)


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
