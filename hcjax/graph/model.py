"""A network as a pure function, and its graph. Every transform takes and returns these.

A `Graph` is a list of ops in order. Values are numbered; each is the images, a parameter, a
constant or the output of one op. Shapes hold for any batch size: each size of a shape is (q, r) and
means q · batch + r.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Container, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hcjax.core import brief, walker
from hcjax.graph.qtensor import QTensor

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

    images: number of the input. logits: of the output. params: path of each parameter -> its
    number. constants: number -> array of all other values that no op computes. frozen: (path,
    number) of the constants that were leaves of the params that were traced.
    """

    ops: tuple[Op, ...]
    images: int
    logits: int
    params: dict[str, int]
    constants: dict[int, Any]
    frozen: tuple[tuple[str, int], ...] = ()

    __repr__ = brief.record


class Model(NamedTuple):
    """A network: `apply(params, images) -> logits`, its parameters, and its graph.

    Every transform takes a Model and returns another. `params` are the arrays that training
    changes; statistics, integers and keys are constants of the graph. dropped: paths of leaves on
    which the logits do not depend. plain: source lines of custom derivative rules that the graph
    does not keep: its gradients there are those of the function itself. image_shape: of one image,
    (H, W, C) or in the network's own layout. image_dtype: dtype of the images. floats: ops of a
    quantized network that stayed in float, with shapes and source line; if it is empty, all ops
    compute on integers. about: metadata as JSON, e.g. class names and the normalisation of the
    images. cut: the cuts of `shrink` and `trim` so far, the oldest first.
    """

    graph: Graph
    params: Any
    paths: tuple[str, ...]
    image_shape: tuple[int, ...]
    image_dtype: Any
    dropped: tuple[str, ...] = ()
    plain: tuple[str, ...] = ()
    floats: tuple[str, ...] = ()
    about: Any = None
    cut: tuple[Cut, ...] = ()

    def apply(self, params: Any, images: jax.Array) -> jax.Array:
        """Computes the logits of a batch of images, of any size; differentiable, jittable."""
        self.check(images)
        return run(self.graph, self.leaves(params), images)

    def check(self, images: Any) -> None:
        """Raises ValueError unless images are of the network's shape, [N, ...]."""
        if not np.ndim(images) or tuple(images.shape[1:]) != self.image_shape:
            expected = ", ".join(map(str, self.image_shape))
            raise ValueError(f"images must be [N, {expected}], got {np.shape(images)}")

    def leaves(self, params: Any) -> dict[str, Any]:
        """Returns path -> array of a tree with the structure of the model's params."""
        arrays, treedef = jax.tree.flatten(params, is_leaf=_is_leaf)
        expected = jax.tree.structure(self.params, is_leaf=_is_leaf)
        if treedef != expected:
            raise ValueError(f"params must have the structure {expected}, got {treedef}")
        return dict(zip(self.paths, arrays, strict=True))

    def __repr__(self) -> str:
        last = next((op for op in self.graph.ops if self.graph.logits in op.outputs), None)
        logits = "?" if last is None else _sizes(last.dtype, last.sizes(1)[1:])
        leaves = jax.tree.leaves(self.params, is_leaf=_is_leaf)
        kinds = collections.Counter(op.kind for op in self.graph.ops).most_common()
        several = [f"{count} {kind}" for kind, count in kinds[:_KINDS]]
        more = [f"{len(kinds) - _KINDS} other kinds"] if len(kinds) > _KINDS else []
        count, size = (sum(getattr(x, k) for x in leaves) for k in ("size", "nbytes"))
        layers = sum(op.kind in LAYERS for op in self.graph.ops)
        rows = {
            "images": _sizes(self.image_dtype, self.image_shape),
            "logits": logits,
            "parameters": f"{count:,} in {len(leaves)} arrays, {size:,} bytes",
            "MACs": f"{sum(op.macs for op in self.graph.ops):,} an image, in {layers} layers",
            "ops": f"{len(self.graph.ops)}: {', '.join(several + more)}",
            "constants": f"{len(self.graph.constants)} arrays" if self.graph.constants else "",
            "in float": f"{len(self.floats)} ops, see .floats" if self.floats else "",
            "not used": brief.value(self.dropped) if self.dropped else "",
            "cuts": f"{len(self.cut)}" if self.cut else "",
            "about": ", ".join(map(str, self.about)) if self.about else "",
        }
        return "\n".join(["Model", *(f"  {k:<12}{v}" for k, v in rows.items() if v)])

    def replace(self, **changes: Any) -> Model:
        """Returns the model with other values of some fields, e.g. `params`."""
        return self._replace(**changes)


def run(
    graph: Graph,
    leaves: dict[str, Any],
    images: jax.Array,
    visit: Callable[[int, Any], Any] | None = None,
) -> jax.Array:
    """Runs a graph and returns its logits.

    Args:
      graph: the ops.
      leaves: path -> array of every parameter.
      images: float[N, ...].
      visit: callback `(number, value)` for the first result of each op. An array that it returns
        replaces the value.
    """
    env = dict(graph.constants)
    env |= {number: leaves[path] for path, number in graph.params.items()}
    env[graph.images] = images
    for op in graph.ops:
        results = op.run(images.shape[0], *[env[i] for i in op.inputs])
        env |= zip(op.outputs, results, strict=True)
        if visit is not None and (replacement := visit(op.output, env[op.output])) is not None:
            env[op.output] = replacement
    return env[graph.logits]


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


def _sizes(dtype: Any, shape: Sequence[int]) -> str:
    """Formats the type and shape of a batch, e.g. float32[N, 10]."""
    return f"{np.dtype(dtype)}[{', '.join(['N', *map(str, shape)])}]"


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
    model: Model, leaves: dict[str, Any], images: jax.Array
) -> dict[int, jax.Array]:
    """Runs the network and returns number -> activation, for the first result of every op."""
    env: dict[int, jax.Array] = {}
    run(model.graph, leaves, images, visit=env.__setitem__)
    return env


def live_ops(items: Sequence[Any], logits: int) -> list:
    """Eliminates dead code: returns the items that the logits depend on, in order.

    Args:
      items: objects with `inputs` and `outputs`, e.g. ops.
      logits: number of the result.
    """
    numbers, live = {logits}, []
    for item in reversed(items):
        if numbers.intersection(item.outputs):
            live.append(item)
            numbers.update(item.inputs)
    return live[::-1]
