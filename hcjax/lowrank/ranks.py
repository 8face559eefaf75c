"""`ranks`: which layers `factorize` makes thinner ones of, at which ranks, and what that saves."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from hcjax.errors import ConfigError
from hcjax.graph.model import Model, is_quantized
from hcjax.lowrank import factors

Rank = int | Mapping[str, int | tuple[int, int]]
_HALVINGS = 30  # of the interval of energies


class Factors(NamedTuple):
    """What becomes of one layer.

    name: of the layer. shape: of its kernel, (outputs, inputs, taps). ranks: (r,) of two matrices,
    (inputs, outputs) of a core; () where the layer stays. before, after: MACs for one image. why:
    it stays; "" where it does not.
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
    """Returns what `factorize` does to each layer, and why to some nothing.

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
    for layer, ranks in chosen(model, rank=rank, energy=energy, macs=macs, select=select):
        why = "" if ranks else layer.why or "it would take no fewer MACs"
        shape = layer.tensor.shape
        rows.append(Factors(layer.name, shape, ranks, layer.op.macs, layer.macs(ranks), why))
    return tuple(rows)


def chosen(
    model: Model,
    *,
    rank: Rank | None,
    energy: float | None,
    macs: float | None,
    select: str | Sequence[str] | None,
) -> list[tuple[factors.Layer, tuple[int, ...]]]:
    """Returns every layer with its ranks, () where it stays; arguments as of `factorize`."""
    if sum(x is not None for x in (rank, energy, macs)) != 1:
        raise ConfigError(f"give one of rank, energy and macs; got {rank}, {energy}, {macs}")
    if is_quantized(model):
        raise ConfigError("the model is quantized: factorize it before fake_quantize and int8")
    if isinstance(rank, Mapping) and select is None:
        select = list(rank)
    found = factors.read(model, [select] if isinstance(select, str) else select)
    if isinstance(rank, Mapping):
        ranks = [_asked(layer, rank) for layer in found]
    elif rank is not None:
        if rank < 1:
            raise ConfigError(f"rank must be >= 1, got {rank}")
        ranks = [_at_most(layer, rank) for layer in found]
    elif energy is not None:
        if not 0 < energy <= 1:
            raise ConfigError(f"energy must be in (0, 1], got {energy}")
        ranks = [layer.cheapest(layer.by_energy(energy)) for layer in found]
    else:
        ranks = _by_macs(found, macs)
    return list(zip(found, ranks, strict=True))


def _asked(layer: factors.Layer, rank: Mapping) -> tuple[int, ...]:
    """Returns the ranks that a mapping gives a layer, up to what its kernel has."""
    wanted = next((r for pattern, r in rank.items() if re.fullmatch(pattern, layer.name)), ())
    if not wanted or layer.why:
        return ()
    wanted = (wanted,) * len(layer.full) if isinstance(wanted, int) else tuple(wanted)
    if len(wanted) != len(layer.full) or min(wanted) < 1:
        raise ConfigError(f"{layer.name} needs {len(layer.full)} ranks >= 1, got {wanted}")
    return tuple(map(min, wanted, layer.full))


def _at_most(layer: factors.Layer, rank: int) -> tuple[int, ...]:
    return layer.cheapest(tuple(min(rank, f) for f in layer.full))


def _by_macs(found: list[factors.Layer], part: float) -> list[tuple[int, ...]]:
    """Returns the ranks of the greatest energy at which the network takes a part of its MACs."""
    if not 0 < part < 1:
        raise ConfigError(f"macs must be in (0, 1), got {part}")
    before = sum(layer.op.macs for layer in found)

    def at(energy):
        ranks = [layer.cheapest(layer.by_energy(energy)) for layer in found]
        return ranks, sum(layer.macs(r) for layer, r in zip(found, ranks, strict=True))

    low, high = 0.0, 1.0
    best, least = at(low)
    if least > part * before:
        raise ConfigError(
            f"macs={part} cannot be reached: with every rank at 1 the network still takes "
            f"{least / max(before, 1):.3g} of its MACs"
        )
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        ranks, total = at(middle)
        low, high, best = (middle, high, ranks) if total <= part * before else (low, middle, best)
    return best
