"""Where each array of a program lies in one block of memory, by when it is needed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

ALIGNMENT = 64  # bytes: a line of a processor's cache


class Life(NamedTuple):
    """size: bytes. first, last: the steps that write it first and read it last."""

    size: int
    first: int
    last: int


def plan(lives: Mapping[str, Life]) -> tuple[dict[str, int], int]:
    """Returns the offset of each array, and the size of the block in bytes; first fit.

    Arrays whose lives overlap do not share a byte. The largest are placed first.

    Args:
      lives: name -> Life.

    Example:
      >>> plan({"a": Life(100, 0, 1), "b": Life(60, 1, 2), "c": Life(100, 2, 3)})
      ({'a': 0, 'c': 0, 'b': 128}, 192)
    """
    placed: dict[str, tuple[int, int]] = {}
    for name, life in sorted(lives.items(), key=lambda pair: (-pair[1].size, pair[1].first)):
        size = -(-life.size // ALIGNMENT) * ALIGNMENT
        beside = sorted(
            placed[other]
            for other in placed
            if lives[other].first <= life.last and life.first <= lives[other].last
        )
        at = 0
        for start, taken in beside:
            if at + size <= start:
                break
            at = max(at, start + taken)
        placed[name] = at, size
    size = max((at + taken for at, taken in placed.values()), default=0)
    return {name: at for name, (at, _) in placed.items()}, size
