"""Batches of a split, in a deterministic order, sharded over hosts.

In: a `Split`. Out: dicts of trees of NumPy arrays. The global order is a pure function of (seed,
step): there is no iterator state to save, a run resumes at any step, and the global batches do not
depend on the number of hosts. Training batches are always full; only evaluation pads.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from hcjax.data import order
from hcjax.data.dataset import Split
from hcjax.errors import ConfigError, DataError

READ_AHEAD = 16  # batches, at most
READ_AHEAD_BYTES = 2**30  # of images; two batches are read ahead in any case


def indices(*, seed: int, step: int, batch_size: int, size: int) -> np.ndarray:
    """Returns the indices of the examples in the global batch of a step.

    Example i of step s is at position s * batch_size + i of the endless sequence
    permutation(seed, 0), permutation(seed, 1), ...: every `size` positions run through all
    examples once, and a batch may begin in one epoch and end in a later one.

    Args:
      seed: in [0, 2**64).
      step: >= 0.
      batch_size: of the global batch, >= 1.
      size: number of examples, >= 1.

    Returns:
      int64[batch_size], each in [0, size).

    Example:
      >>> [indices(seed=0, step=s, batch_size=2, size=3).tolist() for s in range(3)]
      [[0, 2], [1, 2], [1, 0]]
    """
    begin, end = step * batch_size, (step + 1) * batch_size
    pieces = []
    for epoch in range(begin // size, (end - 1) // size + 1):
        first = max(begin - epoch * size, 0)
        pieces.append(_epoch(seed, epoch, size)[first : end - epoch * size])
    return np.concatenate(pieces)


def train_batches(
    split: Split,
    *,
    seed: int,
    batch_size: int,
    start: int = 0,
    stop: int | None = None,
    shard: tuple[int, int] = (0, 1),
    partners: bool = False,
    threads: int = 0,
) -> Iterator[dict[str, np.ndarray]]:
    """Iterates over this host's shard of the shuffled, full batches from step `start` on.

    Host s of S takes the rows s * n .. (s + 1) * n of each global batch, n = batch_size / S. A run
    resumes with `start=`; no example is skipped or repeated.

    Args:
      split: examples to draw from.
      seed: of the order.
      batch_size: of the global batch, over all hosts; a multiple of S.
      start: first step, >= 0.
      stop: end of the steps, exclusive; None for no end.
      shard: (s, S), this host and the number of hosts.
      partners: add to each example the next one of the global batch (cyclically), the partner of
        mixup and cutmix.
      threads: that prefetch batches and read their images in parallel; 0 reads in the calling
        thread, or with 16 threads if the images are lazy. At most 16 batches and, beyond the
        second, 1 GiB are prefetched.

    Returns:
      An iterator of {"inputs", "labels", "position"}: inputs and targets as in the split, e.g.
      images [n, H, W, C] and int32[n], and int32[n] positions in the global batch, 0 ..
      batch_size-1. With `partners` also "partner_inputs" and "partner_labels".

    Raises:
      ConfigError: if the batch cannot be divided among the hosts, or a number is out of range.
      DataError: if `split` is empty.

    Example:
      >>> split = Split(np.zeros((3, 1, 1, 1), np.uint8), np.array([0, 1, 2], np.int32))
      >>> batches = train_batches(split, seed=0, batch_size=2, start=1)
      >>> next(batches)["labels"].tolist(), next(batches)["labels"].tolist()
      ([1, 2], [1, 0])
    """
    n = _shard_size(batch_size, shard)
    size = split.size
    if size == 0:
        raise DataError("cannot make training batches: the training part has no example")
    if start < 0 or (stop is not None and stop < start):
        raise ConfigError(f"expected 0 <= start <= stop, got start={start}, stop={stop}")
    first = shard[0] * n

    def make(step: int, read: Callable) -> dict[str, np.ndarray]:
        rows = indices(seed=seed, step=step, batch_size=batch_size, size=size)
        mine = rows[np.arange(first, first + n + partners) % batch_size]  # one more for partners
        inputs, labels = read(split.inputs, mine), read(split.targets, mine)
        position = np.arange(first, first + n, dtype=np.int32)
        batch = {"inputs": _rows(inputs, 0, n), "labels": _rows(labels, 0, n)}
        if partners:
            batch |= {"partner_inputs": _rows(inputs, 1, None)}
            batch |= {"partner_labels": _rows(labels, 1, None)}
        return batch | {"position": position}

    return _run(make, start, stop, split, threads, n + partners)


def eval_batches(
    split: Split, *, batch_size: int, shard: tuple[int, int] = (0, 1), threads: int = 0
) -> Iterator[dict[str, np.ndarray]]:
    """Iterates over this host's shard of a split in order, every example exactly once.

    Every host yields ceil(N / batch_size) batches of one size. The rows after the last example are
    padding: zeros, with mask False.

    Args:
      split: examples to read.
      batch_size: of the global batch, over all hosts; a multiple of the number of hosts.
      shard: (s, S), this host and the number of hosts.
      threads: as in `train_batches`.

    Returns:
      An iterator of {"inputs", "labels", "mask": bool[n], "index": int64[n]}, n = batch_size / S:
      inputs and targets as in the split; `index` is the position in `split`, -1 for padding.

    Raises:
      ConfigError: if the batch cannot be divided among the hosts.
      DataError: if `split` is empty.

    Example:
      >>> split = Split(np.zeros((3, 1, 1, 1), np.uint8), np.array([7, 8, 9], np.int32))
      >>> [b["index"].tolist() for b in eval_batches(split, batch_size=2)]
      [[0, 1], [2, -1]]
    """
    size = split.size
    if size == 0:
        raise DataError("cannot evaluate: the part has no examples")
    n = _shard_size(batch_size, shard)

    def make(step: int, read: Callable) -> dict[str, np.ndarray]:
        index = step * batch_size + shard[0] * n + np.arange(n)
        mask = index < size
        real = index[mask]

        def padded(x):
            rows = np.zeros((n, *x.shape[1:]), x.dtype)
            if len(real):
                rows[: len(real)] = read(x, real)
            return rows

        batch = {"inputs": jax.tree.map(padded, split.inputs)}
        batch |= {"labels": jax.tree.map(padded, split.targets)}
        return batch | {"mask": mask, "index": np.where(mask, index, -1)}

    return _run(make, 0, -(-size // batch_size), split, threads, n)


def _rows(tree: Any, first: int, last: int | None) -> Any:
    return jax.tree.map(lambda x: x[first:last], tree)


@functools.lru_cache(maxsize=4)
def _epoch(seed: int, epoch: int, size: int) -> np.ndarray:
    """Returns the order of one epoch, cached: a step needs at most two neighbouring epochs."""
    return order.permutation(seed=seed, stream=epoch, size=size)


def _shard_size(batch_size: int, shard: tuple[int, int]) -> int:
    """Returns the number of rows of a global batch on one host."""
    host, hosts = shard
    if not 0 <= host < hosts:
        raise ConfigError(f"shard must be (host, hosts) with 0 <= host < hosts, got {shard}")
    if batch_size < 1 or batch_size % hosts:
        raise ConfigError(
            f"batch_size must be a positive multiple of the {hosts} hosts, got {batch_size}"
        )
    return batch_size // hosts


def _run(
    make: Callable[[int, Callable], dict],
    start: int,
    stop: int | None,
    split: Split,
    threads: int,
    rows: int,
) -> Iterator[dict]:
    """Yields make(start, read), make(start + 1, read), ..., prefetched by threads if lazy.

    `make` reads examples by `read(tree, index) -> tree`; `rows` is the number of a batch.
    """
    stop = 2**62 if stop is None else stop
    lazy = any(not isinstance(x, np.ndarray) for x in jax.tree.leaves(split.inputs))
    if not threads and not lazy:
        for step in range(start, stop):
            yield make(step, lambda tree, index: jax.tree.map(lambda x: x[index], tree))
        return
    import grain  # a second to import, so only where it is used

    threads = threads or 16
    each = (int(np.prod(x.shape[1:])) for x in jax.tree.leaves(split.inputs))
    batch_bytes = rows * max(sum(each), 1)
    prefetch = min(max(READ_AHEAD_BYTES // batch_bytes, 2), READ_AHEAD)
    pool = ThreadPoolExecutor(threads, "read-images")

    def read(tree: Any, index: np.ndarray) -> Any:
        return jax.tree.map(lambda x: read_array(x, index), tree)

    def read_array(x: Any, index: np.ndarray) -> np.ndarray:
        found = np.empty((len(index), *x.shape[1:]), x.dtype)

        def fill(places: np.ndarray) -> None:
            found[places] = x[index[places]]

        list(pool.map(fill, np.array_split(np.arange(len(index)), min(threads, len(index)))))
        return found

    options = grain.ReadOptions(num_threads=min(threads, prefetch), prefetch_buffer_size=prefetch)
    steps = grain.MapDataset.range(start, stop).map(lambda step: make(step, read))
    batches = iter(steps.to_iter_dataset(options))
    try:
        yield from batches
    finally:
        batches.close()
        pool.shutdown(wait=False, cancel_futures=True)
