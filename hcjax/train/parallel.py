"""Steps sharded over all devices; the only file that uses `pmap`.

In: a pure step. Out: the same step over all devices of all hosts. Batches are split along their
first axis. The state is one replicated copy, of the same shape on 1 or N devices (in_axes and
out_axes None), so no other file depends on the number of devices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from hcjax.accelerate import compiler
from hcjax.errors import ConfigError
from hcjax.train.step import Devices

AXIS = "devices"


def _mean(x: jax.Array) -> jax.Array:
    """Returns the mean over devices; of counters and flags, which are the same, the greatest."""
    if jnp.issubdtype(x.dtype, jnp.inexact):
        return lax.pmean(x, AXIS)
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return x
    return lax.pmax(x.astype(jnp.int32), AXIS).astype(x.dtype)


DEVICES = Devices(
    sum=partial(lax.psum, axis_name=AXIS),
    mean=lambda tree: jax.tree.map(_mean, tree),
    key=lambda key: jax.random.fold_in(key, lax.axis_index(AXIS)),
)


def train(
    train_step: Callable,
    *,
    devices: Sequence | None = None,
    accelerate: bool = False,
) -> Callable:
    """Shards `train_step` over all devices; the state is donated.

    Args:
      train_step: from `make_train_step(..., devices=parallel.DEVICES)`.
      devices: the devices to use; None for all of them.
      accelerate: whether to rewrite the step for this platform, see `hcjax.accelerate`, and compile
        it with `compiler.options()`.

    Returns:
      `(state, batch, key) -> (state, sums)`; every leaf of `batch` is [D, N/D, ...] with D the
      number of this host's devices, see `shard`.
    """
    axes = {"in_axes": (None, 0, None), "out_axes": (None, None), "devices": devices}
    return _mapped(train_step, accelerate, replicated=1, donate=(0,), **axes)


def evaluate(
    eval_step: Callable,
    *,
    devices: Sequence | None = None,
    accelerate: bool = False,
) -> Callable:
    """Shards `eval_step(params, state, batch) -> (sums, each)` over all devices.

    Args:
      eval_step: from `make_eval_step(..., devices=parallel.DEVICES)`.
      devices, accelerate: as of `train`.

    Returns:
      The same function of a sharded batch; sums are over all devices of all hosts, `each` holds
      this host's examples as [D, N/D, ...].
    """
    axes = {"in_axes": (None, None, 0), "out_axes": (None, 0), "devices": devices}
    return _mapped(eval_step, accelerate, replicated=2, **axes)


def teach(step: Callable, *, accelerate: bool = False) -> Callable:
    """Shards `step(number, batch, key) -> logits` over all devices; logits are [D, N/D, K].

    Args:
      step: a pure function. accelerate: as of `train`.
    """
    return _mapped(step, accelerate, replicated=1, in_axes=(None, 0, None), out_axes=0)


def _mapped(
    step: Callable, accelerate: bool, *, replicated: int, donate: tuple[int, ...] = (), **axes: Any
) -> Callable:
    """Shards a step over all devices, and accelerates it on request.

    An accelerated step is compiled with better kernels too, unless it loops over convolutions.

    Args:
      donate: arguments whose memory the results may reuse. axes: of `jax.pmap`.
      replicated: number of leading arguments that are not split. They get the layout of the
        results, or the second step, on the first one's results, would be traced again.
    """
    around = partial(jax.pmap, axis_name=AXIS, donate_argnums=donate, **axes)
    if not (accelerate and compiler.options()):
        return around(compiler.rewritten(step) if accelerate else step)
    fast = compiler.compiled(step, around=around, donate_argnums=donate)
    layout = NamedSharding(Mesh(jax.devices(), (AXIS,)), PartitionSpec())

    def replicate(tree):
        first = next(iter(jax.tree.leaves(tree)), None)
        replicated_already = isinstance(first, jax.Array) and first.sharding == layout
        return tree if replicated_already else jax.device_put(tree, layout)

    return lambda *args: fast(*map(replicate, args[:replicated]), *args[replicated:])


def shard(batch: dict, count: int | None = None) -> dict:
    """Reshapes every leaf [N, ...] of a batch to [count, N / count, ...].

    Args:
      batch: dict of arrays with the same first axis, this host's part of the global batch.
      count: number of parts; None for the number of this host's devices.

    Raises:
      ConfigError: if `count` does not divide N.

    Example:
      >>> shard({"labels": np.arange(6)}, 2)["labels"].shape
      (2, 3)
    """
    count = count or jax.local_device_count()

    def split(x):
        if x.shape[0] % count:
            raise ConfigError(
                f"a batch of {x.shape[0]} examples on this host cannot be divided over {count} "
                f"devices; choose a batch size that is a multiple of {count * jax.process_count()}"
            )
        return x.reshape(count, x.shape[0] // count, *x.shape[1:])

    return jax.tree.map(split, batch)


def round_up(batch_size: int) -> int:
    """Rounds a batch size up to a multiple of the number of all devices."""
    return -(-batch_size // jax.device_count()) * jax.device_count()


def on_any_host(flag: bool) -> bool:
    """Returns whether a flag is set on any host; the same on all of them."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.process_allgather(np.int32(flag)).any())


def local_rows(x: jax.Array) -> np.ndarray:
    """Copies this host's shards of an output [D, n, ...] to one array [D * n, ...]."""
    parts = sorted(x.addressable_shards, key=lambda s: s.index[0].start or 0)
    rows = np.concatenate([np.asarray(s.data) for s in parts])
    return rows.reshape(-1, *rows.shape[2:])


def gathered(each: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns arrays of all hosts' examples, in order of their "index"; the same on every host.

    Args:
      each: arrays [n, ...] of this host's examples; n may differ between hosts.
    """
    if jax.process_count() > 1:
        count = len(each["index"])
        most = int(multihost_utils.process_allgather(np.int32(count)).max())
        short = [(0, most - count)]
        padded = {k: np.pad(v, short + [(0, 0)] * (v.ndim - 1)) for k, v in each.items()}
        padded["index"][count:] = -1
        every = multihost_utils.process_allgather(padded)
        each = {k: np.asarray(v).reshape(-1, *v.shape[2:]) for k, v in every.items()}
        each = {k: v[each["index"] >= 0] for k, v in each.items()}
    order = np.argsort(each["index"], kind="stable")
    return {k: v[order] for k, v in each.items()}


def to_host(tree: Any) -> Any:
    """Copies a pytree to NumPy arrays, independent of any device or host layout.

    Args:
      tree: pytree of arrays, replicated over devices.

    Note:
      The arrays are copies: on a CPU `np.asarray` would be a view of a buffer that the next step,
      to which the state is donated, overwrites.
    """

    def fetch(x):
        if isinstance(x, jax.Array) and not x.is_fully_addressable:
            x = x.addressable_data(0)  # replicated: each shard is the whole
        return np.array(x)

    return jax.tree.map(fetch, tree)
