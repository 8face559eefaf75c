"""`ranks`: the ranks at which `factorize` replaces each layer, and the MACs that this saves."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from hcjax.errors import ConfigError
from hcjax.graph.model import Model, is_quantized
from hcjax.lowrank import factors

Rank = int | Mapping[str, int | tuple[int, int]]
_BISECTIONS = 30  # of the interval of energies


class Factors(NamedTuple):
    """The ranks of one layer, and its MACs.

    Attributes:
      name: of the layer.
      shape: of its kernel, (outputs, inputs, taps).
      ranks: (r,) of two matrices, (inputs, outputs) of a core; () if the layer stays as it is.
      before, after: MACs for one image.
      why: the reason that the layer stays as it is; "" if it is replaced.
    """

    name: str
    shape: tuple[int, int, int]
    ranks: tuple[int, ...]
    before: int
    after: int
    why: str


def ranks(
    model: Model,
    *,
    rank: Rank | None = None,
    energy: float | None = None,
    macs: float | None = None,
    select: str | Sequence[str] | None = None,
) -> tuple[Factors, ...]:
    """Lists the ranks at which `factorize` replaces each layer, and why some layers stay.

    Args:
      model, rank, energy, macs, select: as of `factorize`.

    Returns:
      One row for each convolution and dense layer, in order.

    Raises:
      ConfigError: as `factorize`.

    Example:
      >>> import jax.numpy as jnp
      >>> from hcjax.graph.tracing.trace import trace
      >>> params = {"a": jnp.ones((8, 8)), "b": jnp.eye(8)}
      >>> model = trace(lambda p, x: x @ p["a"] @ p["b"], params, jnp.ones((1, 8)))
      >>> for row in ranks(model, energy=0.9):
      ...   print(row.name, row.ranks, row.before, row.after, row.why)
      a (1,) 64 16
      b () 64 64 it would take no fewer MACs
    """
    rows = []
    for layer, ranks in chosen_ranks(model, rank=rank, energy=energy, macs=macs, select=select):
        why = "" if ranks else layer.why or "it would take no fewer MACs"
        shape = layer.tensor.shape
        rows.append(Factors(layer.name, shape, ranks, layer.op.macs, layer.macs(ranks), why))
    return tuple(rows)


def chosen_ranks(
    model: Model,
    *,
    rank: Rank | None,
    energy: float | None,
    macs: float | None,
    select: str | Sequence[str] | None,
) -> list[tuple[factors.Layer, tuple[int, ...]]]:
    """Chooses every layer's ranks, () where it stays as it is; arguments as of `factorize`."""
    if sum(x is not None for x in (rank, energy, macs)) != 1:
        raise ConfigError(f"give one of rank, energy and macs; got {rank}, {energy}, {macs}")
    if is_quantized(model):
        raise ConfigError("the model is quantized: factorize it before fake_quantize and int8")
    if isinstance(rank, Mapping) and select is None:
        select = list(rank)
    layers = factors.read(model, [select] if isinstance(select, str) else select)
    if isinstance(rank, Mapping):
        ranks = [_mapped(layer, rank) for layer in layers]
    elif rank is not None:
        if rank < 1:
            raise ConfigError(f"rank must be >= 1, got {rank}")
        ranks = [_at_most(layer, rank) for layer in layers]
    elif energy is not None:
        if not 0 < energy <= 1:
            raise ConfigError(f"energy must be in (0, 1], got {energy}")
        ranks = [layer.cheapest(layer.by_energy(energy)) for layer in layers]
    else:
        ranks = _by_macs(layers, macs)
    return list(zip(layers, ranks, strict=True))


def _mapped(layer: factors.Layer, rank: Mapping) -> tuple[int, ...]:
    """Gives the ranks of a layer in a mapping, clipped to its full ranks."""
    wanted = next((r for pattern, r in rank.items() if re.fullmatch(pattern, layer.name)), ())
    if not wanted or layer.why:
        return ()
    wanted = (wanted,) * len(layer.full) if isinstance(wanted, int) else tuple(wanted)
    if len(wanted) != len(layer.full) or min(wanted) < 1:
        raise ConfigError(f"{layer.name} needs {len(layer.full)} ranks >= 1, got {wanted}")
    return tuple(map(min, wanted, layer.full))


def _at_most(layer: factors.Layer, rank: int) -> tuple[int, ...]:
    return layer.cheapest(tuple(min(rank, f) for f in layer.full))


def _by_macs(layers: list[factors.Layer], fraction: float) -> list[tuple[int, ...]]:
    """Finds the ranks of the largest energy at which the network takes a fraction of its MACs."""
    if not 0 < fraction < 1:
        raise ConfigError(f"macs must be in (0, 1), got {fraction}")
    before = sum(layer.op.macs for layer in layers)

    def at(energy):
        ranks = [layer.cheapest(layer.by_energy(energy)) for layer in layers]
        return ranks, sum(layer.macs(r) for layer, r in zip(layers, ranks, strict=True))

    low, high = 0.0, 1.0
    best, lowest = at(low)
    if lowest > fraction * before:
        raise ConfigError(
            f"macs={fraction} cannot be reached: with every rank at 1 the network still takes "
            f"{lowest / max(before, 1):.3g} of its MACs"
        )
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        ranks, total = at(middle)
        low, high, best = (
            (middle, high, ranks) if total <= fraction * before else (low, middle, best)
        )
    return best
