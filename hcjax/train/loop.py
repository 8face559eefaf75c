"""`fit`, the training loop of the launcher and of notebooks.

In: a network, its parameters, a dataset, a loss and an optimiser. Out: trained parameters. With
a workdir it also writes metrics and checkpoints, and resumes from them, bit for bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import jax
import optax

from hcjax import tasks, trees
from hcjax.core import formats
from hcjax.data import batches, order
from hcjax.data.augment import needs_partners
from hcjax.data.dataset import Dataset
from hcjax.data.pairs import as_dataset
from hcjax.devices import hosts
from hcjax.errors import CheckpointError, ConfigError
from hcjax.report.progress import Progress
from hcjax.tasks import Task
from hcjax.train import evaluation, parallel, preemption, profiler, stopping, teaching
from hcjax.train.assembly import make_steps
from hcjax.train.objective import Every, Objective, grouped
from hcjax.train.session import Session
from hcjax.train.step import TrainState, init_state


class Fit(NamedTuple):
    """The result of `fit`.

    params, state: the trained network: the moving averages if `ema_decay` was given, those of the
    best validation if `patience` was given.
    step: completed steps. stopped: "steps" (all done), "patience" or "callback" (early), or
    "preempted" (SIGTERM; start again to resume). history: a dict for every `eval_every` steps, by
    default an epoch, and for the last step: "step"; "train_loss" and "train_accuracy", or the
    task's main score, the means over the steps since the dict before; and, of a validation, the
    task's scores, of classification "nll" (its loss: the cross-entropy, in nats), "accuracy" and
    "ece". best_step: of the best validation, 0 if there is none. train_state: the last TrainState.
    train_seconds: total of all processes that worked on the run. seconds_to_first_step: from
    `started` to the end of the first step. images_per_second: of training, without the first step.
    The last two are those of the last process that took a step, or two steps; NaN if none did.
    """

    params: Any
    state: Any
    step: int
    stopped: str
    history: list[dict]
    best_step: int
    train_state: TrainState
    train_seconds: float
    seconds_to_first_step: float
    images_per_second: float

    def __repr__(self) -> str:
        head = f"Fit: {self.step:,} steps, {trees.num_parameters(self.params):,} parameters"
        facts = [f"stopped by {self.stopped}", f"best at step {self.best_step:,}"]
        facts += [f"{formats.duration(self.train_seconds)} of training"]
        facts = [facts[0], *facts[1 + (not self.best_step) :]]
        last = self.history[-1] if self.history else {}
        words = {k: formats.label(k if k.startswith("train_") else f"validation_{k}") for k in last}
        lines = [f"  {words[k]} {formats.value(k, v)}" for k, v in last.items() if k != "step"]
        return "\n".join([f"{head}; {', '.join(facts)}", *lines])


def fit(
    apply: Callable,
    params: Any,
    data: Any,
    objective: Objective | None = None,
    *,
    tx: optax.GradientTransformation,
    key: jax.Array,
    steps: int | None = None,
    epochs: float | None = None,
    state: Any = None,
    workdir: str | Path | None = None,
    batch_size: int = 128,
    augment: Sequence[tuple[str, dict]] = (),
    ema_decay: float | None = None,
    accelerate: bool = True,
    every: Every | None = None,
    eval_batch_size: int = 1000,
    patience: int | None = None,
    monitor: str | None = None,
    keep: int = 3,
    threads: int = 0,
    profile_steps: int = 0,
    quiet: bool = False,
    started: float | None = None,
    task: Task | str = "classification",
    callbacks: Sequence[Callable[[dict, Any, Any], bool | None]] = (),
    **fields: Any,
) -> Fit:
    """Trains parameters for so many steps or epochs, or until validation stops getting better.

    Args:
      apply: `(params, state, images, *, train, key) -> (logits, state)`; or, with `state` None,
        `(params, images) -> logits`. Either may return (logits, ...), all of which the loss gets.
      params: pytree of float arrays to start from; not changed.
      data: a Dataset, see `hcjax.data.load`, of which only `train` and `validation` are used; or
        arrays: (images, labels), ((images, labels), (test images, test labels)), ..., whose pixels
        the network gets as they are, in 0..1, see `hcjax.data.from_arrays`.
      objective, **fields: the loss, and what belongs to it, see `Objective`; or its fields as
        keywords: loss=, penalty=, class_weights=, teacher=, teacher_logits=. Without a loss, that
        of the task.
      tx: optax optimiser.
      steps: optimiser steps in all, >= 0; or
      epochs: passes over the training images, > 0, rounded to whole steps: exactly one of the two.
      key: PRNG key that decides batch order, augmentation and dropout.
      state: running statistics, {} for none, None for the two-argument form of `apply`.
      workdir: folder for metrics and checkpoints; a run found there is resumed. None keeps
        everything in memory.
      batch_size: examples per step over all devices, a multiple of their number.
      augment: sequence of (name, options), see `hcjax.data.augment`.
      ema_decay: in [0, 1): evaluate, and return, a moving average of parameters and statistics.
      accelerate: rewrite the operations that the platform's compiler is slow at, see
        `hcjax.accelerate`.
      every: steps between validations, checkpoints and lines of the metrics, see `Every`; None for
        the defaults. Or as keywords: eval_every=, checkpoint_every=, log_every=.
      eval_batch_size: examples per evaluation step over all devices, rounded up to their multiple.
      patience: stop after this many validations without a better one, and return the best;
        None never stops early and returns the last.
      monitor: the score to improve, one of the task's; None for its first. Of classification:
        "nll", lower is better, or "accuracy", higher.
      keep: number of checkpoints kept.
      threads: threads that read ahead; 0 reads in the loop if the images are in memory.
      profile_steps: write a trace of that many steps, from the 11th on, to `workdir/profile`.
      task: what the network is for: the loss, if none is given, and the scores. See
        `hcjax.tasks`, or its name there.
      callbacks: functions of (the newest dict of the history, params, state), called every
        `eval_every` steps; training stops after one that returns something true.
      quiet: show no progress. started: perf_counter() that seconds_to_first_step counts from.

    Returns:
      Fit.

    Raises:
      ConfigError: if an argument is out of range, or the network has fewer logits than classes.
      DataError: if `data` has another form, or its images or labels cannot be used.
      TypeError: if a keyword is unknown.
      CheckpointError: if the workdir holds a run of other arguments or of more steps, or cannot be
        written.
      DivergedError: if loss, gradient or parameters are not finite, with the steps concerned.

    Note:
      A resumed run must share, and is checked for: key, batch_size, augment, ema_decay; mean, std,
      class names, image shape and training labels of the data; names and shapes of all arrays.
      Functions (apply, loss, tx, penalty), class_weights and pixels are not checked: give the same.

    Example:
      >>> import jax, optax, hcjax
      >>> data = hcjax.data.load("mnist", limit=256)
      >>> init, apply = hcjax.models.create("lenet_300_100")
      >>> params, state = init(jax.random.key(0))
      >>> done = fit(apply, params, data, loss=hcjax.losses.cross_entropy, tx=optax.adam(1e-3),
      ...            steps=4, key=jax.random.key(1), state=state, quiet=True)
      >>> done.step, done.stopped
      (4, 'steps')
    """
    started = started or time.perf_counter()
    data = as_dataset(data)
    task = tasks.get(task)
    own = objective is None and fields.get("teacher") is None  # a teacher changes the target
    defaults = {"loss": task.loss} if own else {}
    objective, every = grouped(objective, every, defaults | fields)
    steps = _steps(steps, epochs, batch_size, data.train.size)
    monitor = next(iter(task.monitors)) if monitor is None else monitor
    stopping.check(task.monitors, monitor, patience, validation=data.validation)
    _check(steps, batch_size, data)
    apply, state = evaluation.four_arguments(apply, state)
    eval_every = every.eval or math.ceil(data.train.size / batch_size)
    checkpoint_every = every.checkpoint or eval_every
    log_every = min(every.log, eval_every)  # lines of equal windows, and one for each validation
    train_step, eval_step = make_steps(
        apply,
        objective,
        tx=tx,
        mean=data.mean,
        std=data.std,
        num_classes=data.num_classes,
        augment=augment,
        ema_decay=ema_decay,
        task=task,
    )
    train_step = parallel.train(train_step, accelerate=accelerate)
    identity = {
        "key": order.seed_of(key),
        "batch_size": batch_size,
        "augment": [[name, dict(options)] for name, options in augment],
        "ema_decay": ema_decay,
        "accelerate": accelerate,
        "examples": data.train.size,
        "labels_sha256": trees.sha256({"labels": data.train.labels}),
    }
    session = Session(
        init_state(params, state, tx, ema=ema_decay is not None),
        eval_step=parallel.evaluate(eval_step, accelerate=accelerate),
        validation=data.validation,
        eval_batch_size=parallel.round_up(min(eval_batch_size, data.validation.size or 1)),
        monitor=monitor,
        batch_size=batch_size,
        identity=identity,
        data=data.facts,
        task=task,
        restore_best=patience is not None,
    )
    with hosts.explained(), ExitStack() as stack:
        if workdir is not None:
            session.open(Path(workdir), keep, stack)
            if session.step > steps and not session.stopped:
                raise CheckpointError(
                    f"{workdir} holds {session.step:,} steps of this run, and {steps:,} are asked "
                    f"for: ask for {session.step:,} or more to go on, or give another workdir"
                )
        terminated = stack.enter_context(preemption.catch_sigterm())
        quiet = quiet or jax.process_index() != 0
        stop = session.step if session.stopped else steps
        cache = teaching.cached_logits(
            objective.teacher_logits,
            objective.teacher if session.step < stop else None,
            data=data,
            augment=augment,
            key=key,
            identity=identity,
            steps=steps,
            quiet=quiet,
        )
        add_logits = stack.enter_context(cache)
        progress = Progress(steps, initial=session.step, batch_size=batch_size, quiet=quiet)
        session.progress = stack.enter_context(progress)
        window = (session.step + 10, profile_steps, lambda: session.train_state)
        profile = stack.enter_context(profiler.window(workdir, *window))
        stream = batches.train_batches(
            data.train,
            seed=order.seed_of(key),
            batch_size=batch_size,
            start=session.step,
            stop=stop,
            shard=(jax.process_index(), jax.process_count()),
            partners=needs_partners(augment),
            threads=threads,
        )
        session.start_clock(started)
        preempted = False
        for batch in stream:
            profile(session.step)
            batch = add_logits(session.step, parallel.shard(batch))
            session.add(*train_step(session.train_state, batch, key))
            done = session.step
            preempted = terminated(done)
            session.stopped = "steps" if done == steps else ""
            recording = done % eval_every == 0 or done == steps
            saving = done % checkpoint_every == 0 or done == steps
            if done % log_every == 0 or done == steps:
                session.log(now=recording or saving)
            if recording:
                session.record()
                if patience and session.best.since >= patience:
                    session.stopped = "patience"
                if _any_stops(callbacks, session):
                    session.stopped = session.stopped or "callback"
                if session.stopped in ("patience", "callback"):
                    session.log(now=True)
            if saving or session.stopped or preempted:
                session.save()
            if session.stopped or preempted:
                break
        rate = session.images_per_second
        session.finish()
    return Fit(
        *session.trained,
        step=session.step,
        stopped=session.stopped or ("preempted" if preempted else "steps"),
        history=session.history,
        best_step=session.best.step,
        train_state=session.train_state,
        train_seconds=session.train_seconds,
        seconds_to_first_step=session.seconds_to_first_step,
        images_per_second=rate,
    )


def _any_stops(callbacks: Sequence[Callable], session: Session) -> bool:
    """Calls every callback with the newest line; returns whether one of them said True."""
    if not callbacks:
        return False
    line, averaged = session.history[-1], parallel.to_host(session.train_state.averaged)
    stops = [bool(callback(dict(line), *averaged)) for callback in callbacks]
    return parallel.on_any_host(any(stops))


def _steps(steps: int | None, epochs: float | None, batch_size: int, examples: int) -> int:
    """Returns the steps of a training that is given as steps or as epochs."""
    if (steps is None) == (epochs is None):
        raise ConfigError(f"give one of steps and epochs, got steps={steps} and epochs={epochs}")
    if epochs is None:
        if isinstance(steps, bool) or steps != int(steps):
            raise ConfigError(f"steps must be a whole number, got {steps!r}; or give epochs=")
        return int(steps)
    count = round(epochs * examples / max(batch_size, 1)) if math.isfinite(epochs) else 0
    if count < 1:
        raise ConfigError(
            f"epochs must be enough for one step of {batch_size} of {examples:,} images, got "
            f"{epochs}"
        )
    return count


def _check(steps: int, batch_size: int, data: Dataset) -> None:
    n = jax.device_count()
    if steps < 0:
        raise ConfigError(f"steps must be >= 0, got {steps}")
    if batch_size < 1 or batch_size % n:
        raise ConfigError(f"batch_size must be a multiple of the {n} devices, got {batch_size}")
    if not data.train.size:
        raise ConfigError("the training split is empty")
