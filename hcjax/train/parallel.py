"""Steps sharded over every device: the one file that says `pmap`.

In: a pure step. Out: the same step over all devices of all hosts. Batches are split along their
first axis; the state is one replicated copy, of the same shape on 1 or N devices (in_axes and
out_axes None), so nothing else in the project sees how many devices there are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from hcjax.accelerate import compiler
from hcjax.errors import ConfigError
from hcjax.train.step import Devices

AXIS = "devices"

DEVICES = Devices(
    sum=partial(lax.psum, axis_name=AXIS),
    mean=partial(lax.pmean, axis_name=AXIS),
    key=lambda key: jax.random.fold_in(key, lax.axis_index(AXIS)),
)


def train(
    train_step: Callable,
    *,
    devices: Sequence | None = None,
    accelerate: bool = False,
) -> Callable:
    """Returns `train_step` over all devices; the state is donated.

    Args:
      train_step: from `make_train_step(..., devices=parallel.DEVICES)`.
      devices: the devices to use; None for all of them.
      accelerate: rewrite it for this platform, see `hcjax.accelerate`, and compile it with
        `compiler.options()`.

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
    """Returns `eval_step(params, state, batch) -> (sums, each)` over all devices.

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
    """Returns `step(number, batch, key) -> logits` over all devices: [D, N/D, K].

    Args:
      step: a pure function. accelerate: as of `train`.
    """
    return _mapped(step, accelerate, replicated=1, in_axes=(None, 0, None), out_axes=0)


def _mapped(
    step: Callable, accelerate: bool, *, replicated: int, donate: tuple[int, ...] = (), **axes: Any
) -> Callable:
    """Returns a step over all devices, accelerated if asked for.

    Then it is compiled with better kernels too, unless it loops over convolutions.

    Args:
      donate: arguments whose memory the results may take. axes: of `jax.pmap`.
      replicated: how many arguments, the first ones, are not split. They are laid out as results
        are, or the second step, which takes the first one's results, would be traced anew.
    """
    around = partial(jax.pmap, axis_name=AXIS, donate_argnums=donate, **axes)
    if not (accelerate and compiler.options()):
        return around(compiler.rewritten(step) if accelerate else step)
    fast = compiler.compiled(step, around=around, donate_argnums=donate)
    layout = NamedSharding(Mesh(jax.devices(), (AXIS,)), PartitionSpec())

    def placed(tree):
        first = next(iter(jax.tree.leaves(tree)), None)
        done = isinstance(first, jax.Array) and first.sharding == layout
        return tree if done else jax.device_put(tree, layout)

    return lambda *args: fast(*map(placed, args[:replicated]), *args[replicated:])


def shard(batch: dict, count: int | None = None) -> dict:
    """Returns the batch with every leaf [N, ...] reshaped to [count, N / count, ...].

    Args:
      batch: dict of arrays with the same first axis, this host's part of the global batch.
      count: number of parts; None for the number of this host's devices.

    Raises:
      ConfigError: if `count` does not divide N.

    Example:
      >>> shard({"label": np.arange(6)}, 2)["label"].shape
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
    """Returns the smallest multiple of the number of all devices that is >= batch_size."""
    return -(-batch_size // jax.device_count()) * jax.device_count()


def local_rows(x: jax.Array) -> np.ndarray:
    """Returns this host's part of an output [D, n, ...] of a sharded step, as [D * n, ...]."""
    parts = sorted(x.addressable_shards, key=lambda s: s.index[0].start or 0)
    rows = np.concatenate([np.asarray(s.data) for s in parts])
    return rows.reshape(-1, *rows.shape[2:])


def to_host(tree: Any) -> Any:
    """Returns the pytree as fresh NumPy arrays, free of any device or host layout.

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
