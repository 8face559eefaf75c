"""Evaluation: every example counts exactly once, on any number of devices or hosts.

In: a network, its parameters and a split. Out: integer-exact sums over the split, their summary,
and the predictions for this host's examples.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np

from hcjax import tasks
from hcjax.core import formats
from hcjax.data import batches, prepare
from hcjax.data.dataset import PARTS, Dataset, Split
from hcjax.data.pairs import as_dataset, is_pair
from hcjax.errors import ConfigError, DataError, unknown_name
from hcjax.tasks import Task, classification
from hcjax.train import parallel
from hcjax.train.step import ONE_DEVICE, Devices

_AHEAD = 2  # steps that compute while the host reads the next batch; bounds memory


class Evaluation(NamedTuple):
    """The result of scoring a split.

    sums: the task's, added over all examples, e.g. metrics.eval_sums. each: dict of arrays [n], one
    entry for each of this host's examples: index (int64, position in the split) and those of the
    task, e.g. label, prediction (int32), confidence and loss (float32). task: what was scored.
    whole: scores that need all examples of all hosts at once, see `tasks.Task`.
    """

    sums: dict
    each: dict
    task: Task = classification
    whole: Mapping[str, Any] = MappingProxyType({})

    @property
    def summary(self) -> dict:
        """The task's scores: of classification accuracy, error, nll, ece, examples, per_class."""
        return self.task.summarize(self.sums) | self.whole

    def __repr__(self) -> str:
        summary = {k: v for k, v in self.summary.items() if not isinstance(v, list)}
        return f"Evaluation: {', '.join(f'{k} {formats.value(k, v)}' for k, v in summary.items())}"


def four_arguments(apply: Callable, state: Any) -> tuple[Callable, Any]:
    """Converts a network of either form to (apply, state) of the training form.

    Args:
      apply: `(params, state, images, *, train, key) -> (logits, state)`; or, with `state` None,
        `(params, images) -> logits`.
      state: running statistics, {} for none, or None for the two-argument form.

    Example:
      >>> f, state = four_arguments(lambda params, images: images * params, None)
      >>> f(2.0, state, 3.0, train=True, key=None)
      (6.0, {})
    """
    if state is not None:
        return apply, state

    def training_form(params, state, images, *, train, key):
        del train, key  # a two-argument network behaves alike in training and inference
        return apply(params, images), state

    return training_form, {}


def checked(apply: Callable, task: Task, num_classes: int) -> Callable:
    """Returns a network of the training form that is refused if its outputs are not the task's.

    A label beyond the logits would give no error inside the compiled step, and wrong numbers.

    Args:
      apply: `(params, state, inputs, *, train, key) -> (outputs, state)`.
      task: what it is trained for. num_classes: K of the dataset; 0 without classes.

    Raises:
      ConfigError: when the network is traced, if `task.check` raises it.
    """

    def network(params, state, inputs, *, train, key):
        outputs, state = apply(params, state, inputs, train=train, key=key)
        task.check(outputs, num_classes)
        return outputs, state

    return network


def make_eval_step(
    apply: Callable,
    *,
    prepare: Callable,
    devices: Devices = ONE_DEVICE,
    task: Task = classification,
):
    """Returns `eval_step(params, state, batch) -> (sums, each)`, a pure function.

    Args:
      apply: `(params, state, inputs, *, train, key) -> (outputs, state)`.
      prepare: `(batch, key) -> batch`, called with key None: no augmentation.
      devices: sums over devices.
      task: what is counted.

    Returns:
      A function of a batch from `eval_batches`. sums are `task.eval_sums` over unmasked examples;
      each holds arrays [N], `task.each`: of classification label and prediction int32[N],
      confidence float32[N] (the largest probability) and loss float32[N] (cross-entropy, nats).
    """

    def eval_step(params, state, batch):
        batch = prepare(batch, None)
        outputs, _ = apply(params, state, batch["inputs"], train=False, key=None)
        sums = task.eval_sums(outputs, batch["labels"], batch["mask"])
        return devices.sum(sums), task.each(outputs, batch["labels"])

    return eval_step


def run_eval(
    eval_step: Callable,
    params: Any,
    state: Any,
    split: Split,
    *,
    batch_size: int,
    count: int | None = None,
    task: Task = classification,
) -> Evaluation:
    """Evaluates a split with a compiled, sharded step.

    Args:
      eval_step: from `parallel.evaluate(make_eval_step(...))`.
      params, state: of the network.
      split: the examples.
      batch_size: global; a multiple of the number of devices.
      count: devices of this host that the step runs on; None for all.
      task: that of the step.
    """
    total, waiting, each = {}, deque(), []
    hosts = (jax.process_index(), jax.process_count())
    pending = []
    for batch in batches.eval_batches(split, batch_size=batch_size, shard=hosts):
        index = batch.pop("index")
        mask = batch["mask"]
        pending.append((index[mask], mask))
        sums, outputs = eval_step(params, state, parallel.shard(batch, count))
        each.append(outputs)
        waiting.append(sums)
        if len(waiting) > _AHEAD:
            total = _add(total, waiting.popleft())
    for sums in waiting:
        total = _add(total, sums)
    rows = []
    for (index, mask), outputs in zip(pending, each, strict=True):
        flat = {k: parallel.local_rows(v)[mask] for k, v in outputs.items()}
        rows.append({"index": index, **flat})
    each = {k: np.concatenate([r[k] for r in rows]) for k in rows[0]}
    whole = {} if task.whole is None else task.whole(parallel.gathered(each))
    return Evaluation(total, each, task, whole)


def _add(total: dict, sums: dict) -> dict:
    """Adds a step's sums to the total in 64 bits; waits for the device."""
    wide = {
        k: v.astype(np.int64 if v.dtype.kind in "iu" else np.float64)
        for k, v in parallel.to_host(sums).items()
    }
    return {k: total.get(k, 0) + v for k, v in wide.items()}


def evaluate(
    apply: Callable,
    params: Any,
    data: Any,
    *,
    state: Any = None,
    part: str = "test",
    like: Dataset | None = None,
    batch_size: int = 1000,
    accelerate: bool = True,
    task: Task | str = "classification",
) -> Evaluation:
    """Evaluates a network on one split of a dataset, or on arrays, each example once.

    Args:
      apply: `(params, state, images, *, train, key) -> (logits, state)`; or, with `state` None,
        `(params, images) -> logits`.
      params: pytree of parameters.
      data: a Dataset, whose images are normalised by its mean and std; or arrays, as `fit` takes
        them: all of one pair (images, labels), or one part of several pairs. Their pixels go to the
        network as they are, in 0..1, which is right after `fit` of arrays.
      state: running statistics, {} for none; None for the two-argument form of `apply`.
      part: "train", "validation" or "test"; of one pair, whatever it says.
      like: Dataset by whose mean and std images are normalised in place of those of `data`: that
        of the training, where `data` are arrays.
      batch_size: examples per step over all devices, rounded up to a multiple of their number.
      accelerate: whether to rewrite the step for the platform, see `hcjax.accelerate`.
      task: what the network is for, see `hcjax.tasks`, or its name.

    Returns:
      Evaluation; `.summary["accuracy"]` is the fraction of examples classified correctly.

    Raises:
      ConfigError: if there is no such part, or the network has fewer logits than classes.
      DataError: if `data` has another form, an image or label cannot be used, or the part is empty.

    Example:
      >>> params = np.eye(4, dtype=np.float32)
      >>> x = np.eye(4, dtype=np.float32).reshape(4, 2, 2, 1)
      >>> apply = lambda params, images: images.reshape(images.shape[0], -1) @ params
      >>> evaluate(apply, params, (x, [0, 1, 2, 1])).summary["accuracy"]
      0.75
    """
    if part not in PARTS:
        raise ConfigError(unknown_name("part", part, PARTS))
    task = tasks.get(task)
    dataset = as_dataset(data)
    split = dataset.train if is_pair(data) else getattr(dataset, part)
    if not split.size:
        raise DataError(
            f"cannot evaluate on {dataset.name}: its part '{part}' has no examples; there are "
            + ", ".join(f"{getattr(dataset, p).size:,} of {p}" for p in PARTS)
        )
    norm = dataset if like is None else like
    apply, state = four_arguments(apply, state)
    apply = checked(apply, task, dataset.num_classes)
    ready = prepare.make_prepare(mean=norm.mean, std=norm.std, num_classes=dataset.num_classes)
    step = make_eval_step(apply, prepare=ready, devices=parallel.DEVICES, task=task)
    step = parallel.evaluate(step, accelerate=accelerate)
    batch_size = parallel.round_up(min(batch_size, split.size))
    return run_eval(step, params, state, split, batch_size=batch_size, task=task)
