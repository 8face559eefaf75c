"""One training step as a pure function, independent of devices, configs and compression.

In: a loss and an optax optimiser. Out: `train_step(state, batch, key) -> (state, sums)`, to be
compiled by `jax.jit`, or sharded over devices by `parallel`, which passes the sums over devices.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hcjax import optim
from hcjax.core import brief
from hcjax.errors import ConfigError
from hcjax.losses import Robust
from hcjax.prune.masked import hold
from hcjax.tasks import Task, classification


class TrainState(NamedTuple):
    """The state of a training; its shape does not depend on the number of devices.

    step: int32[], number of completed steps. params: the trained pytree. state: the network's
    running statistics ({} for most). opt_state: the optimiser's. ema: moving average of
    (params, state), in float32 or wider, or None where none is kept.
    """

    step: jax.Array
    params: Any
    state: Any
    opt_state: Any
    ema: Any

    __repr__ = brief.record

    @property
    def averaged(self) -> tuple[Any, Any]:
        """(params, state) to evaluate with: the moving averages, rounded, where they are kept."""
        newest = (self.params, self.state)
        return newest if self.ema is None else rounded(self.ema, newest)


class Devices(NamedTuple):
    """Reductions over the devices that share a batch.

    sum(tree) and mean(tree) reduce a pytree over devices; key(key) derives a device's own key.
    """

    sum: Callable[[Any], Any]
    mean: Callable[[Any], Any]
    key: Callable[[jax.Array], jax.Array]


ONE_DEVICE = Devices(sum=lambda tree: tree, mean=lambda tree: tree, key=lambda key: key)


def init_state(
    params: Any, state: Any, tx: optax.GradientTransformation, *, ema: bool = False
) -> TrainState:
    """Creates the `TrainState` before the first step from copies, so that it can be donated.

    Args:
      params: pytree of floating point arrays.
      state: pytree of running statistics, {} for none.
      tx: the optimiser; it trains bfloat16 and float16 parameters in float32, see
        `optim.in_float32`.
      ema: whether to keep a moving average of (params, state).

    Returns:
      TrainState with step 0.

    Example:
      >>> import optax
      >>> init_state({"w": jnp.ones(2)}, {}, optax.sgd(0.1)).step.item()
      0
    """

    def copy(tree):
        return jax.tree.map(lambda x: jnp.array(x, copy=True), tree)

    average = optim.widened((copy(params), copy(state))) if ema else None
    opt_state = copy(optim.in_float32(tx).init(params))  # some keep the parameters themselves
    return TrainState(jnp.zeros((), jnp.int32), copy(params), copy(state), opt_state, average)


def make_loss_fn(
    apply: Callable,
    loss: Callable[[jax.Array, Any], jax.Array],
    *,
    penalty: Callable[[Any], jax.Array] | None = None,
    class_weights: jax.Array | None = None,
    task: Task = classification,
) -> Callable:
    """Returns the differentiated function of a training step, summed over the batch.

    loss_fn = sum_i w_i * loss(logits_i, target_i) + (sum_i w_i) * penalty(params)

    Args:
      apply: `(params, state, images, *, train, key) -> (logits, state)`; in place of logits also
        (logits, ...); the loss gets the whole tuple.
      loss: `(logits float32[N, K], target) -> float32[N]`, nats per example; or one on perturbed
        inputs, `losses.adversarial` or `losses.trades`.
      penalty: `params -> float32[]`, e.g. L1 or L2; None for none.
      class_weights: float32[K] >= 0, w_i = class_weights[label_i]; None for equal weights.
      task: what is counted, `task.sums`.

    Raises:
      ConfigError: if class weights are negative, not finite, all 0 or not a vector.

    Returns:
      `loss_fn(params, state, batch, key) -> (loss, (state, sums))`. `batch` holds inputs, e.g.
      float[N, H, W, C], labels, e.g. int32[N], and target (labels where absent). `sums` holds count
      (the sum of weights) and what the task counts, e.g. correct and nll, all float32[].

    Note:
      The loss is a sum, not a mean: the caller divides by `sums["count"]`, summed over all devices,
      so that shards of unequal weight are averaged correctly.
    """

    if class_weights is not None and not isinstance(class_weights, jax.core.Tracer):
        weights = np.asarray(class_weights)
        if (
            weights.ndim != 1
            or not (np.isfinite(weights) & (weights >= 0)).all()
            or not weights.any()
        ):
            raise ConfigError(
                f"class_weights must be float[K], finite, >= 0 and not all 0, got {weights!r:.200}"
            )

    def loss_fn(params, state, batch, key):
        inputs, labels = batch["inputs"], batch["labels"]
        target = batch.get("target", labels)
        if isinstance(loss, Robust):
            outputs, each, state = loss.run(apply, params, state, inputs, labels, target, key)
        else:
            outputs, state = apply(params, state, inputs, train=True, key=key)
            each = loss(outputs, target)
        weight = jnp.ones(len(jax.tree.leaves(labels)[0]))
        if class_weights is not None:
            if jnp.ndim(labels) != 1 or not jnp.issubdtype(labels.dtype, jnp.integer):
                raise ConfigError("class_weights are of labels int[N]; these targets are others")
            weight = jnp.asarray(class_weights)[labels]  # a NumPy array takes no traced index
        each = each.astype(jnp.float32)
        sums = task.sums(outputs, labels, weight)
        total = jnp.sum(weight * each)
        if penalty is not None:
            total = total + sums["count"] * penalty(params)
        return total, (state, sums)

    return loss_fn


def make_train_step(
    loss_fn: Callable,
    tx: optax.GradientTransformation,
    *,
    prepare: Callable | None = None,
    ema_decay: float | None = None,
    devices: Devices = ONE_DEVICE,
) -> Callable:
    """Returns `train_step(state, batch, key) -> (state, sums)`, one step of gradient descent.

    grads = sum over devices of d loss_fn / d params  /  sum over devices of sums["count"]
    params' = params + tx(grads)
    ema' = d * ema + (1 - d) * (params', state'),  d = min(ema_decay, (1 + step) / (10 + step));
    0 where those are 0, see `moving_average`

    Args:
      loss_fn: `(params, state, batch, key) -> (loss, (state, sums))`; the loss is a sum over the
        batch and sums["count"] its divisor, see `make_loss_fn`.
      tx: optax optimiser, see `init_state`. Its update also receives `value=` the mean loss, if it
        takes one. What is pruned in it stays zero whatever wraps it, see `prune.hold`.
      prepare: `(batch, key) -> batch`, e.g. augmentation and normalisation; its key is the same
        on every device, so that per-example keys do not depend on the number of devices.
      ema_decay: in [0, 1); None keeps no average. Else `init_state(ema=True)`.
      devices: reductions over devices; the default is for one.

    Returns:
      A pure function. `key` is the run's key: the step's own is fold_in(key, state.step). The
      returned sums are loss_fn's plus loss and grad_norm (times count), all divided by count for
      their means.
    """
    tx = hold(optim.in_float32(tx))

    def train_step(state: TrainState, batch: dict, key: jax.Array):
        prepare_key, loss_key = keys(key, state.step)
        if prepare is not None:
            batch = prepare(batch, prepare_key)
        gradient = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, (net_state, sums)), grads = gradient(
            state.params, state.state, batch, devices.key(loss_key)
        )
        grads, sums = devices.sum((optim.widened(grads), {**sums, "loss": loss}))
        net_state = devices.mean(net_state)
        count = sums["count"]
        grads = jax.tree.map(lambda g: g / count.astype(g.dtype), grads)
        updates, opt_state = _updated(
            tx, grads, state.opt_state, state.params, sums["loss"] / count
        )
        params = optax.apply_updates(state.params, updates)
        ema = state.ema
        if ema_decay is not None:
            ema = moving_average(ema, (params, net_state), state.step, ema_decay)
        sums["grad_norm"] = optax.global_norm(grads) * count
        return TrainState(state.step + 1, params, net_state, opt_state, ema), sums

    return train_step


def _updated(tx, grads, state, params, value) -> tuple[Any, Any]:
    """Returns `tx.update(...)`, with `value=` if it takes that: `optax.contrib.sam` does not."""
    try:
        return tx.update(grads, state, params, value=value)
    except TypeError as error:
        if "unexpected keyword argument 'value'" not in str(error):
            raise
        return tx.update(grads, state, params)


def keys(key: jax.Array, step: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns a step's keys, for `prepare` and for the loss.

    Args:
      key: the run's. step: int32[], steps completed before this one.
    """
    prepare_key, loss_key = jax.random.split(jax.random.fold_in(key, step))
    return prepare_key, loss_key


def moving_average(average: Any, tree: Any, step: jax.Array, decay: float):
    """Returns d * average + (1 - d) * tree with d = min(decay, (1 + step) / (10 + step)).

    An entry that is exactly 0 is 0 in the average too, so that pruned weights stay pruned. The
    plain average would still hold 0.37 of their old values after 1 / (1 - d) steps.

    Args:
      average: pytree of arrays. tree: the same structure, the newest values. The average of a
        bfloat16 is a float32, where a thousandth of it is not lost.
      step: int32[], steps completed before this one.
      decay: in [0, 1). The second term of d shortens the memory at the start, as in TensorFlow's
        ExponentialMovingAverage(num_updates).

    Returns:
      The new average; leaves that are not floating point are taken from `tree`.

    Example:
      >>> moving_average(jnp.array([0.0, 1.0]), jnp.array([1.0, 0.0]), jnp.array(90), 0.5).tolist()
      [0.5, 0.0]
    """
    d = optim.ema_decay(step, decay)

    def mix(a, x):
        floating = jnp.issubdtype(jnp.asarray(x).dtype, jnp.inexact)
        return jnp.where(x == 0, x, a + (1 - d) * (x - a)).astype(x.dtype) if floating else x

    return jax.tree.map(mix, *optim.widened((average, tree)))


def rounded(average: Any, tree: Any) -> Any:
    """Returns an average, of arrays or shapes, in the dtypes of what it is an average of."""

    def cast(a, x):
        if a.dtype == x.dtype:
            return a
        return a.astype(x.dtype) if hasattr(a, "astype") else jax.ShapeDtypeStruct(a.shape, x.dtype)

    return jax.tree.map(cast, average, tree)
