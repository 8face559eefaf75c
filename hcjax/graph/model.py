"""A network as a pure function, and its graph. Every transform takes and returns these.

A `Graph` is a list of ops in order. Values are numbered; each is an input, a parameter, a constant
or the output of one op. Shapes hold for any batch size: each size of a shape is (q, r) and
means q · batch + r.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Container, Iterable, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hcjax.core import brief, notebook, walker
from hcjax.errors import ConfigError
from hcjax.graph import interface
from hcjax.graph.qtensor import QTensor

# while a graph runs: what ops that each give one result of a loop have computed together
together: ContextVar[dict | None] = ContextVar("together", default=None)
_KINDS = 6  # of op, that a Model names when it is printed
LAYERS = ("conv_general_dilated", "dot_general")  # kinds of op with a kernel


class Size(NamedTuple):
    """A size that is q · batch + r, of a shape or among an equation's parameters."""

    q: int
    r: int


class Op(NamedTuple):
    """One operation of a graph.

    kind: the primitive's name, or "relu". inputs: numbers of its operands. outputs: of its results.
    shape: of its first result, sizes as (q, r). dtype: of that. source: the user's line. run: the
    function of (batch size, operands) that computes the list of results. params: the primitive's,
    sizes that depend on the batch as `Size`. macs: multiply-accumulates for one image.
    """

    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    shape: tuple[Size, ...]
    dtype: Any
    source: str
    run: Callable[..., list]
    params: dict
    macs: int = 0

    __repr__ = brief.record

    @property
    def output(self) -> int:
        """The number of its first result."""
        return self.outputs[0]

    def run_one(self, batch: int, *inputs: Any) -> Any:
        """Computes its first result."""
        return self.run(batch, *inputs)[0]

    def sizes(self, batch: int) -> tuple[int, ...]:
        """Returns the shape of its first result at a batch size."""
        return at_batch(self.shape, batch)


class Cut(NamedTuple):
    """One cut of an array: of the `size` indices along `axis`, the indices `kept` are left.

    path: of the array in the params that were traced.
    """

    path: str
    axis: int
    kept: tuple[int, ...]
    size: int

    __repr__ = brief.record


class Graph(NamedTuple):
    """Ops in order, and the meaning of their numbers.

    inputs: numbers of the arrays that it takes. outputs: of those that it gives. params: path of
    each parameter -> its number. constants: number -> array of all other values that no op
    computes. frozen: (path, number) of the constants that were leaves of the params that were
    traced.
    """

    ops: tuple[Op, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    params: dict[str, int]
    constants: dict[int, Any]
    frozen: tuple[tuple[str, int], ...] = ()

    __repr__ = brief.record

    @property
    def last(self) -> int:
        """The greatest number in use."""
        results = (o for op in self.ops for o in op.outputs)
        return max([*self.inputs, *self.params.values(), *self.constants, *results], default=0)

    def used(self) -> set[int]:
        """Returns the numbers that an op reads, or that are outputs."""
        return {i for op in self.ops for i in op.inputs}.union(self.outputs)


class Model(NamedTuple):
    """A network: `apply(params, *inputs) -> outputs`, its parameters, and its graph.

    Every transform takes a Model and returns another. `params` are the arrays that training
    changes; statistics, integers and keys are constants of the graph. inputs: tree of `Leaf`, a
    tuple of all arguments. outputs: tree of `Leaf`. dropped: paths of leaves on which the outputs
    do not depend. plain: source lines of custom derivative rules that the graph does not keep: its
    gradients there are those of the function itself. floats: ops of a quantized network that stayed
    in float, with shapes and source line; if it is empty, all ops compute on integers. about:
    metadata as JSON, e.g. class names and the normalisation of the images. cut: the cuts of
    `shrink` and `trim` so far, the oldest first.
    """

    graph: Graph
    params: Any
    paths: tuple[str, ...]
    inputs: tuple
    outputs: Any
    dropped: tuple[str, ...] = ()
    plain: tuple[str, ...] = ()
    floats: tuple[str, ...] = ()
    about: Any = None
    cut: tuple[Cut, ...] = ()

    def apply(self, params: Any, *inputs: Any, images: Any = None) -> Any:
        """Computes the outputs of a batch of any size, as a tree; differentiable, jittable.

        images: the last input, as a keyword.
        """
        inputs = inputs if images is None else (*inputs, images)
        return self.compute(self.leaves(params), interface.flatten(self.inputs, inputs))

    def compute(self, leaves: dict[str, Any], arrays: Sequence[Any], visit: Any = None) -> Any:
        """Computes the tree of outputs from flat parameters and inputs, as `run` takes them."""
        results = run(self.graph, leaves, arrays, visit)
        return jax.tree.unflatten(jax.tree.structure(self.outputs), results)

    def arrays(self, given: Any) -> list[np.ndarray]:
        """Returns the flat arrays of examples: of the one input, or of a tuple of several.

        Raises:
          ValueError: if they are not the network's; a ConfigError if there is no example.
        """
        arrays = [np.asarray(x) for x in interface.examples(self.inputs, given)]
        if not interface.count(self.inputs, arrays):
            raise ConfigError("there are no images" if self.alone else "there are no examples")
        return arrays

    @property
    def alone(self) -> bool:
        """Whether the network takes one array of examples, and nothing else."""
        return isinstance(self.inputs[0], interface.Leaf) and len(self.inputs) == 1

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The shape of one image, (H, W, C) or in the network's own layout."""
        return self._image.shape

    @property
    def image_dtype(self) -> Any:
        """The dtype of the images."""
        return self._image.dtype

    @property
    def _image(self) -> interface.Leaf:
        if not self.alone:
            raise ConfigError(
                f"a network that takes images, one array, is needed here; this one takes "
                f"{interface.describe(self.inputs)}"
            )
        return self.inputs[0]

    @property
    def classes(self) -> int:
        """The number of classes, for a network whose output is logits [N, K]."""
        leaf = self.outputs
        if not isinstance(leaf, interface.Leaf) or len(leaf.shape) != 1 or not leaf.batched:
            raise ConfigError(
                f"a network that gives logits [N, K], one array, is needed here; this one gives "
                f"{interface.describe((leaf,))}"
            )
        return leaf.shape[0]

    def leaves(self, params: Any) -> dict[str, Any]:
        """Returns path -> array of a tree with the structure of the model's params."""
        arrays, treedef = jax.tree.flatten(params, is_leaf=_is_leaf)
        expected = jax.tree.structure(self.params, is_leaf=_is_leaf)
        if treedef != expected:
            raise ValueError(f"params must have the structure {expected}, got {treedef}")
        return dict(zip(self.paths, arrays, strict=True))

    _repr_html_ = notebook.to_html

    @property
    def grid(self) -> notebook.Grid:
        """What a network is, in about ten lines."""
        leaves = jax.tree.leaves(self.params, is_leaf=_is_leaf)
        kinds = collections.Counter(op.kind for op in self.graph.ops).most_common()
        several = [f"{count} {kind}" for kind, count in kinds[:_KINDS]]
        more = [f"{len(kinds) - _KINDS} other kinds"] if len(kinds) > _KINDS else []
        count, size = (sum(getattr(x, k) for x in leaves) for k in ("size", "nbytes"))
        layers = sum(op.kind in LAYERS for op in self.graph.ops)
        rows = {
            "images" if self.alone else "inputs": interface.describe(self.inputs),
            "outputs": interface.describe((self.outputs,)),
            "parameters": f"{count:,} in {len(leaves)} arrays, {size:,} bytes",
            "MACs": f"{sum(op.macs for op in self.graph.ops):,} an example, in {layers} layers",
            "ops": f"{len(self.graph.ops)}: {', '.join(several + more)}",
            "constants": f"{len(self.graph.constants)} arrays" if self.graph.constants else "",
            "in float": f"{len(self.floats)} ops, see .floats" if self.floats else "",
            "not used": brief.value(self.dropped) if self.dropped else "",
            "cuts": f"{len(self.cut)}" if self.cut else "",
            "about": ", ".join(map(str, self.about)) if self.about else "",
        }
        return notebook.Grid(("Model", ""), [row for row in rows.items() if row[1]])

    def __repr__(self) -> str:
        return "\n".join(["Model", *(f"  {name:<12}{value}" for name, value in self.grid.rows)])

    def replace(self, **changes: Any) -> Model:
        """Returns the model with other values of some fields, e.g. `params`."""
        return self._replace(**changes)


def run(
    graph: Graph,
    leaves: dict[str, Any],
    inputs: Sequence[Any],
    visit: Callable[[int, Any], Any] | None = None,
    *,
    batch: int | None = None,
) -> list[Any]:
    """Runs a graph and returns its outputs.

    Args:
      graph: the ops.
      leaves: path -> array of every parameter.
      inputs: arrays of its inputs; those with axes have the examples on the first one.
      visit: callback `(number, value)` for the first result of each op. An array that it returns
        replaces the value.
      batch: size of the batch; None for that of the inputs.
    """
    env, found = environment(graph, leaves, inputs)
    batch = found if batch is None else batch
    token = together.set({})
    try:
        for op in graph.ops:
            results = op.run(batch, *[env[i] for i in op.inputs])
            env |= zip(op.outputs, results, strict=True)
            if visit is not None and (replacement := visit(op.output, env[op.output])) is not None:
                env[op.output] = replacement
    finally:
        together.reset(token)
    return [env[number] for number in graph.outputs]


def environment(
    graph: Graph, leaves: dict[str, Any], inputs: Sequence[Any]
) -> tuple[dict[int, Any], int]:
    """Returns number -> array of all that no op computes, and the size of the batch."""
    env = dict(graph.constants)
    env |= {number: leaves[path] for path, number in graph.params.items()}
    env |= zip(graph.inputs, inputs, strict=True)
    return env, next((np.shape(x)[0] for x in inputs if np.ndim(x)), 1)


def input_shapes(model: Model) -> dict[int, tuple[Size, ...]]:
    """Returns number -> shape of every input."""
    leaves = jax.tree.leaves(model.inputs)
    batch = [(Size(1, 0),) * leaf.batched for leaf in leaves]
    shapes = [tuple(Size(0, n) for n in leaf.shape) for leaf in leaves]
    return {n: a + b for n, a, b in zip(model.graph.inputs, batch, shapes, strict=True)}


def input_dtypes(model: Model) -> dict[int, Any]:
    """Returns number -> dtype of every input."""
    dtypes = [leaf.dtype for leaf in jax.tree.leaves(model.inputs)]
    return dict(zip(model.graph.inputs, dtypes, strict=True))


def bind(eqn: walker.Eqn, params: dict) -> Callable[..., list]:
    """Returns a function of batch size and operands that binds an equation."""

    def compute(batch, *inputs):
        return walker.bind(eqn, [_array(x) for x in inputs], at_batch(params, batch))

    return compute


def plain(sizes: Sequence[Size]) -> tuple[Size | int, ...]:
    """Returns a shape with a `Size` only for sizes that depend on the batch; others are ints."""
    return tuple(size if size.q else size.r for size in sizes)


def at_batch(value: Any, batch: int) -> Any:
    """Evaluates every `Size` among an equation's params at a batch size."""
    if isinstance(value, Size):
        return value.q * batch + value.r
    if isinstance(value, dict):
        return {k: at_batch(v, batch) for k, v in value.items()}
    if type(value) in (tuple, list):
        return type(value)(at_batch(v, batch) for v in value)
    return value


def _is_leaf(x: Any) -> bool:
    return isinstance(x, QTensor)


def _array(x: Any) -> Any:
    return jnp.asarray(x) if isinstance(x, np.ndarray) else x


def layer_of(path: str) -> str:
    """Returns the layer that a parameter's path belongs to.

    Example:
      >>> layer_of("params/conv1/kernel"), layer_of("conv1/kernel/value"), layer_of("w")
      ('params/conv1', 'conv1', 'w')
    """
    parts = path.split("/")
    parts = parts[:-1] if parts[-1] == "value" and len(parts) > 1 else parts  # of NNX
    return "/".join(parts[:-1] or parts)


def is_quantized(model: Model) -> bool:
    """Returns whether a model comes from `fake_quantize` or `int8`."""
    return any(op.kind in ("step", "quantize") for op in model.graph.ops)


def in_integers(model: Model) -> bool:
    """Returns whether a model computes on integers only, and so gives the same bits everywhere."""
    return any(op.kind == "quantize" for op in model.graph.ops) and not model.floats


def unused_name(base: str, names: Container[str]) -> str:
    """Returns a name, with a number appended if it is among the names in use.

    Example:
      >>> unused_name("conv", ["dense"]), unused_name("conv", ["conv", "conv_1"])
      ('conv', 'conv_2')
    """
    name, i = base, 1
    while name in names:
        name, i = f"{base}_{i}", i + 1
    return name


def consumers(ops: Iterable[Op]) -> dict[int, list[Op]]:
    """Returns number -> the ops that read it, in order; an op counts once for each operand."""
    by_number: dict[int, list[Op]] = {}
    for op in ops:
        for i in op.inputs:
            by_number.setdefault(i, []).append(op)
    return by_number


def capture_activations(
    model: Model, leaves: dict[str, Any], inputs: Sequence[Any]
) -> dict[int, jax.Array]:
    """Runs the network and returns number -> activation, for the first result of every op.

    inputs: as of `run`.
    """
    env: dict[int, jax.Array] = {}
    run(model.graph, leaves, inputs, visit=env.__setitem__)
    return env


def live_ops(items: Sequence[Any], outputs: Iterable[int]) -> list:
    """Eliminates dead code: returns the items that the outputs depend on, in order.

    Args:
      items: objects with `inputs` and `outputs`, e.g. ops.
      outputs: numbers of the results.
    """
    numbers, live = set(outputs), []
    for item in reversed(items):
        if numbers.intersection(item.outputs):
            live.append(item)
            numbers.update(item.inputs)
    return live[::-1]
