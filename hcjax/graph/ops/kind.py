"""`Kind`: the facts about one kind of op, from which every reading derives its default rule.

The tables of kinds are literal dicts, one file for each group of ops; `hcjax.graph.ops.KINDS` is
all of them. A reading has its own rules for the few kinds whose rule follows from no fact.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hcjax.errors import ConfigError, unknown_name
from hcjax.graph.model import Op, Size

# Families. Each number of a result is ...
MOVE = "move"  # a number of the one operand: reshape, slice, nearest-neighbour resize
JOIN = "join"  # a number of one of several arrays: concatenate, pad
ORDER = "order"  # chosen by the order of numbers: max-pooling, sort
SUM = "sum"  # a sum of numbers: average pooling, cumsum
REDUCE = "reduce"  # computed from several numbers in another way: product, argmax
ELEMENTWISE = "elementwise"  # a function of the numbers at the same place
CAST = "cast"  # the same number in another dtype
LAYER = "layer"  # a sum of products with a kernel: convolution, dense
INTEGER = "integer"  # an op of the integer program: quantize, look_up
CONSTANT = "constant"  # without operands: iota
BODY = "body"  # a result of graphs among its params: scan, cond

FAMILIES = (MOVE, JOIN, ORDER, SUM, REDUCE, ELEMENTWISE, CAST, LAYER, INTEGER, CONSTANT, BODY)
TRAITS = frozenset({"affine", "clip", "homogeneous", "keeps zero", "product"})
KEEPS_ZERO = frozenset({"homogeneous", "keeps zero"})  # traits of most ops that move or choose

Shapes = tuple[tuple[Size, ...], ...]


def same(op: Op, shapes: Shapes) -> tuple[int | None, ...]:
    """Returns the identity: each axis of the result is the same axis of the operand."""
    return tuple(range(len(op.shape)))


def nothing(op: Op, shapes: Shapes) -> tuple[int, ...]:
    """Returns no axis."""
    return ()


class LayerAxes(NamedTuple):
    """The axes of a layer with one operand as its kernel.

    Attributes:
      channels: axis of the result that holds the output channels; None if not exactly one does.
      outputs: axis of the kernel that holds the output channels.
      summed: pairs (axis of the other operand, axis of the kernel) that are summed over, ascending
        in the kernel.
      taps: axes of the kernel that slide over the other operand.
    """

    channels: int | None
    outputs: int
    summed: tuple[tuple[int, int], ...]
    taps: tuple[int, ...] = ()

    @property
    def order(self) -> tuple[int, ...]:
        """The axes of the kernel as (outputs, inputs, taps)."""
        return (self.outputs, *(b for _, b in self.summed), *self.taps)

    def matrices(self, kernel: Any) -> np.ndarray:
        """Returns a kernel as float64[outputs, inputs, taps]."""
        kernel = np.asarray(kernel, np.float64).transpose(self.order)
        inputs = int(np.prod(kernel.shape[1 : 1 + len(self.summed)]))
        return kernel.reshape(len(kernel), inputs, -1)


class Kind(NamedTuple):
    """The facts about one kind of op, for every reading; only `family` and `run` are required.

    Attributes:
      family: one of the families above; it chooses each reading's default rule.
      run: `(params, *arrays) -> array`, the meaning of the op: all ops run it, whether traced,
        built by a transform or unpacked. Integers stay integers: sums and products of int8 are
        int32.
      fields: names of the params that `run` reads and that files and exporters keep.
      optional: further such params with their defaults; a file keeps them only where they differ.
      origin: `(op, shapes of its operands) -> axes`; for each axis of the result the axis of the
        first operand with the same indices; None for a new one.
      mixes: `(op, shapes) -> axes` of the first operand along which several indices meet in one
        number of the result.
      terms: `(op, shapes) -> int`, the count of terms in the sum that is one number of the result,
        for bounds of int32 sums and for MACs; 0, unknown, if a size depends on the batch.
      traits: any of "affine" (y = a x + b with constants), "clip", "homogeneous" (f(s x) = s f(x)
        for s > 0), "keeps zero" (zero where its operand is), "product" (zero where any operand is).
      layer: `(op, side, rank) -> LayerAxes`, of layers: the operand `side` is the kernel, and has
        `rank` axes.
      decode: name of a field -> function from its JSON form to jax's.
      resize: `(op, masks, result_masks) -> params` that change when indices are cut. `masks` has,
        for each operand, bool[size] of each axis, False at the cut indices; `result_masks` is the
        same of the result.
      further: `params -> params`; of an equation's params beyond `fields`, the ones that could
        change the result. If one of them is not None, the op runs its equation, and no file holds
        it.
    """

    family: str
    run: Callable[..., Any]
    fields: tuple[str, ...] = ()
    optional: dict[str, Any] = {}  # noqa: RUF012  # never written to
    origin: Callable[[Op, Shapes], tuple[int | None, ...]] = same
    mixes: Callable[[Op, Shapes], tuple[int, ...]] = nothing
    terms: Callable[[Op, Shapes], int] | None = None
    traits: frozenset[str] = frozenset()
    layer: Callable[[Op, int, int], LayerAxes] | None = None
    decode: dict[str, Callable[[Any], Any]] = {}  # noqa: RUF012  # never written to
    resize: Callable[[Op, list, list], dict] | None = None
    further: Callable[[dict], dict] = lambda params: params


def check(name: str, kind: Any) -> None:
    """Raises ConfigError if facts about a kind of op contradict each other, or one is missing.

    Args:
      name: of the kind.
      kind: Kind.

    Example:
      >>> check("cumsum", Kind(SUM, lambda params, x: jnp.cumsum(x, params["axis"]), ("axis",)))
      Traceback (most recent call last):
          ...
      hcjax.errors.ConfigError: kind 'cumsum': family "sum" needs terms=, how many numbers are added
    """
    where = f"kind '{name}'"
    if not isinstance(kind, Kind):
        raise ConfigError(f"{where} must be a Kind, got {type(kind).__name__}")
    if kind.family not in FAMILIES:
        raise ConfigError(f"{where}: {unknown_name('family', str(kind.family), FAMILIES)}")
    if not isinstance(kind.fields, tuple) or not all(isinstance(f, str) for f in kind.fields):
        raise ConfigError(f"{where}: fields must be a tuple of names, got {kind.fields!r}")
    for trait in kind.traits:
        if trait not in TRAITS:
            raise ConfigError(f"{where}: {unknown_name('trait', str(trait), TRAITS)}")
    for field in kind.decode:
        if field not in (*kind.fields, *kind.optional):
            raise ConfigError(f"{where}: decode has {field!r}, which is not among its fields")
    needs = {SUM: ("terms", "how many numbers are added"), LAYER: ("layer", "its axes")}
    needed, meaning = needs.get(kind.family, ("run", ""))
    if getattr(kind, needed) is None:
        raise ConfigError(f'{where}: family "{kind.family}" needs {needed}=, {meaning}')


def check_axes(op: Op, kind: Kind, shapes: Shapes) -> None:
    """Raises ConfigError if `origin` or `mixes` of a kind name axes that an op does not have.

    Args:
      op: of that kind.
      kind: its facts.
      shapes: of the op's operands.
    """
    if kind.family not in (MOVE, ORDER, SUM, REDUCE) or not shapes:
        return
    operand, result, where = len(shapes[0]), len(op.shape), f"kind '{op.kind}'"
    try:
        origin, mixes = tuple(kind.origin(op, shapes)), tuple(kind.mixes(op, shapes))
    except Exception as error:  # whatever whoever wrote it raises
        raise ConfigError(
            f"{where}: origin or mixes cannot read an op with the params {sorted(op.params)}: "
            f"{type(error).__name__}: {error}"
        ) from error
    if len(origin) != result or not all(a is None or a in range(operand) for a in origin):
        raise ConfigError(
            f"{where}: origin must give, for each of the {result} axes of the result, an axis of "
            f"the {operand} of the first operand, or None; it gives {origin}"
        )
    if not all(axis in range(operand) for axis in mixes):
        raise ConfigError(
            f"{where}: mixes must give axes of the {operand} of the first operand, it gives {mixes}"
        )


def widen(x: jax.Array) -> jax.Array:
    """Returns int8 as int32, so that its sums and products do not overflow; other dtypes unchanged.

    Example:
      >>> widen(jnp.int8(100)).dtype.name, widen(jnp.float32(1)).dtype.name
      ('int32', 'float32')
    """
    return x.astype(jnp.int32) if x.dtype == jnp.int8 else x


def count(sizes: list[Size]) -> int:
    """Returns the product of sizes; 0 if one of them depends on the batch.

    Example:
      >>> count([Size(0, 3), Size(0, 4)]), count([Size(1, 0)])
      (12, 0)
    """
    total = 1
    for size in sizes:
        total *= 0 if size.q else size.r
    return total
