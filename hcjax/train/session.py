"""The mutable state of a running `fit`: it logs, validates, saves and finishes."""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np

from hcjax.core import formats
from hcjax.core.files import jsonable
from hcjax.data.dataset import Split
from hcjax.devices import hosts, lock
from hcjax.errors import CheckpointError
from hcjax.report.progress import Progress
from hcjax.report.writers import MetricWriter
from hcjax.tasks import Task
from hcjax.train import evaluation, finite, parallel, stopping
from hcjax.train.step import TrainState


class Session:
    """A running `fit`: its newest TrainState, its best validation, its clock, its files.

    Args:
      train_state: before the first step.
      eval_step: sharded evaluation step.
      validation: examples that choose the best parameters; may be empty.
      eval_batch_size: global, a multiple of the number of devices.
      monitor: key of `task.monitors`. task: what is scored.
      batch_size: training examples per step over all devices.
      identity: JSON facts that a resumed run must share.
      data: JSON facts for loading the run: class names, image shape, mean, std.
      restore_best: whether the run's result is its best validation, not its last parameters.
    """

    def __init__(
        self,
        train_state: TrainState,
        *,
        eval_step: Any,
        validation: Split,
        eval_batch_size: int,
        monitor: str,
        batch_size: int,
        identity: dict,
        data: dict,
        task: Task,
        restore_best: bool,
    ):
        self.train_state, self.step = train_state, 0
        # as a checkpoint gives them back, to be compared
        self.identity, self._data = jsonable(identity), jsonable(data)
        self.stopped = ""  # "steps", "patience" or "callback" once the run is over
        self.best = stopping.Best()
        self.history: list[dict] = []
        self.progress = Progress(0, quiet=True)
        self._eval_step, self._validation = eval_step, validation
        self._eval_batch_size, self._monitor = eval_batch_size, monitor
        self._batch_size, self._restore_best = batch_size, restore_best
        self._task = task
        self._checkpoints = self._writer = None
        self._unread: list[dict] = []  # sums of the newest steps, on the device
        self._ready = 0  # how many of them are computed, as far as was asked
        self._line: list[dict[str, float]] = []  # those of the steps since the last line, read
        self._due = False  # whether a line is written once the next step runs
        self._since: dict[str, float] = {}  # sums over the steps since the last record
        self.seconds_to_first_step = self._before_rate = float("nan")  # of earlier processes
        self._before = 0.0  # seconds trained by earlier processes
        self._launched = self._started = time.perf_counter()
        self._rated: tuple[float, int] | None = None  # (seconds, step) after the first step
        self._aside = 0.0  # seconds of validation and saving since then

    @property
    def validates(self) -> bool:
        """Whether there are validation examples."""
        return self._validation.size > 0

    def open(self, workdir: Path, keep: int, stack: ExitStack) -> None:
        """Opens the workdir's files and resumes from its newest sound checkpoint, if any.

        Raises:
          CheckpointError: if the workdir holds a run of another identity or cannot be used, if
            another process is training there, or if not all processes resume from the same step.
        """
        from hcjax.train.checkpoint import Checkpoints, restructure

        stack.enter_context(lock.held(workdir))
        self._checkpoints = Checkpoints(workdir, keep=keep)
        stack.callback(self._checkpoints.close)
        checkpoint = self._checkpoints.restore()
        hosts.check_same(workdir, checkpoint[0] if checkpoint else 0, "goes on from step {}".format)
        if checkpoint is not None:
            self.step, arrays, record = checkpoint
            theirs = record["data"] | record["identity"]
            _check_identity(self._data | self.identity, theirs, workdir)
            best = self.train_state.averaged if record["best"]["kept"] else None
            saved = restructure(arrays, {"train": self.train_state, "best": best})
            self.train_state = saved["train"]
            self.best = stopping.Best(**{**record["best"], "kept": saved["best"]})
            self.history = record["history"]
            early = record["stopped"] in ("patience", "callback")
            self.stopped = record["stopped"] if early else ""
            self._before, self._line = record["train_seconds"], record["pending"]
            self._since = record.get("since", {})
            self.seconds_to_first_step = record["seconds_to_first_step"]
            self._before_rate = record["images_per_second"]
            self._checkpoints.discard_after(self.step)
        if jax.process_index() == 0:
            self._writer = stack.enter_context(MetricWriter(workdir, self.step))

    @property
    def train_seconds(self) -> float:
        """Seconds in all processes that worked on this run, restarts' set-up not counted."""
        return self._before + time.perf_counter() - self._started

    @property
    def images_per_second(self) -> float:
        """Training speed without the first step, validation and saving.

        Of this process, or, before its second step, of the one before it.
        """
        if self._rated is None or self.step == self._rated[1]:
            return self._before_rate
        seconds = time.perf_counter() - self._rated[0] - self._aside
        return (self.step - self._rated[1]) * self._batch_size / seconds

    def start_clock(self, launched: float) -> None:
        """Starts counting train_seconds; seconds_to_first_step counts from `launched`."""
        self._launched, self._started = launched, time.perf_counter()

    def add(self, train_state: TrainState, sums: dict) -> None:
        """Stores the result of a step; writes the line of earlier steps that is due."""
        self._write_due()  # the new step runs by now: reading the old ones' sums delays nothing
        self.train_state, self.step = train_state, self.step + 1
        self._unread.append(sums)
        if self._rated is None:
            jax.block_until_ready(sums)
            self._rated = (time.perf_counter(), self.step)
            self.seconds_to_first_step = self._rated[0] - self._launched
        self.progress.update(self.step, finished=self._finished())

    def log(self, *, now: bool) -> None:
        """Ends a line of the metrics here; it is written at once, or one step later."""
        self._due = True
        if now:
            self._write_due()

    def record(self) -> None:
        """Adds a line to the history: the training since the last one, and a validation, if any.

        A validation keeps the parameters if they are the best so far.
        """
        self._read()
        trained = {}
        if count := self._since.get("count"):
            main = self._task.main
            trained = {"train_loss": self._since["loss"] / count}
            trained |= {f"train_{main}": self._task.summarize(self._since)[main]}
        self._since = {}
        line = {"step": self.step} | trained | (self._validate() if self.validates else {})
        self.history.append(line)
        if self.validates:
            mark = " (best)" if self.best.since == 0 else ""
            names = dict.fromkeys((self._task.main, *self._task.monitors))
            scores = ", ".join(f"{n} {formats.value(n, line[n])}" for n in names if n in line)
            self.progress.note(f"step {self.step}: validation {scores}{mark}")

    def _validate(self) -> dict[str, float]:
        """Scores the validation examples; returns the task's scores."""
        with self._timed_aside():
            params, state = self.train_state.averaged
            scored = evaluation.run_eval(
                self._eval_step,
                params,
                state,
                self._validation,
                batch_size=self._eval_batch_size,
                task=self._task,
            ).summary
            value = self._task.monitors[self._monitor](scored)
            self.best = stopping.update(
                self.best, value, self.step, lambda: parallel.to_host((params, state))
            )
            names = dict.fromkeys((*self._task.shown, self._task.main, *self._task.monitors))
            line = {name: scored[name] for name in names if name in scored}
            if self._writer is not None:
                self._writer.write(self.step, "validation", line)
        return line

    def save(self) -> None:
        """Starts writing a checkpoint of everything, if there is a workdir."""
        if self._checkpoints is None:
            return
        rate = self.images_per_second
        with self._timed_aside():
            self._write_due()  # a resumed run writes only lines of later steps
            self._read()
            tree = {"train": parallel.to_host(self.train_state), "best": self.best.kept}
            finite.check(tree["train"].params, self.step)
            best = self.best._replace(kept=self.best.kept is not None)._asdict()
            record = {
                "identity": self.identity,
                "best": best,
                "history": self.history,
                "stopped": self.stopped,
                "train_seconds": self.train_seconds,
                "seconds_to_first_step": self.seconds_to_first_step,
                "images_per_second": rate,
                "pending": self._line,
                "since": self._since,
                "data": self._data,
                "trained": self._trained()[0],
            }
            self._checkpoints.save(self.step, tree, record)

    @property
    def trained(self) -> tuple[Any, Any]:
        """(params, state) that are the run's result, on the host."""
        return parallel.to_host(self._trained()[1])

    def _trained(self) -> tuple[list[str], tuple[Any, Any]]:
        """Returns (paths of the result in a checkpoint's arrays, `trained`)."""
        if self._restore_best and self.best.kept is not None:
            return ["best/0", "best/1"], self.best.kept
        averaged = self.train_state.averaged
        if self.train_state.ema is not None:
            return ["train/ema/0", "train/ema/1"], averaged
        return ["train/params", "train/state"], averaged

    def finish(self) -> None:
        """Waits until the last checkpoint is on the disk."""
        if self._checkpoints is not None:
            self._checkpoints.wait()

    def _finished(self) -> int:
        """Returns the steps that the device is done with, without waiting: it runs behind."""
        while self._ready < len(self._unread) and _is_ready(self._unread[self._ready]):
            self._ready += 1
        return self.step - len(self._unread) + self._ready

    def _read(self) -> None:
        """Waits for the sums of all steps, checks them and adds them up."""
        first = self.step - len(self._unread) + 1
        host, self._unread, self._ready = [_numbers(sums) for sums in self._unread], [], 0
        for i, sums in enumerate(host):
            if not all(np.isfinite(v) for v in sums.values()):
                raise finite.diverged(f"steps {first + i} to {self.step}", sums)
            self._since = {k: self._since.get(k, 0.0) + v for k, v in sums.items()}
        self._line = self._line + host

    def _write_due(self) -> None:
        """Writes the mean over the steps since the last line, if a line is due."""
        if not self._due:
            return
        self._read()
        line, self._line, self._due = self._line, [], False
        if not line:
            return
        total = {k: sum(sums[k] for sums in line) for k in line[0]}
        scores = self._task.summarize(total)
        mean = {k: total[k] / total["count"] for k in ("loss", "grad_norm")}
        shown = dict.fromkeys((*self._task.shown, self._task.main))
        mean |= {name: scores[name] for name in shown if name in scores}
        if self._writer is not None:
            self._writer.write(self.step, "train", mean)
        shown = {"loss": mean["loss"], self._task.main: mean[self._task.main]}
        self.progress.update(self.step, **shown)

    @contextmanager
    def _timed_aside(self):
        start = time.perf_counter()
        with self.progress.aside():
            yield
        self._aside += time.perf_counter() - start


def _numbers(sums: dict) -> dict[str, float]:
    return {k: float(v) for k, v in parallel.to_host(sums).items()}


def _is_ready(sums: dict) -> bool:
    """Returns whether a step's sums are computed."""
    return all(x.is_ready() for x in jax.tree.leaves(sums) if isinstance(x, jax.Array))


def _check_identity(ours: dict, theirs: dict, workdir: Path) -> None:
    differ = [k for k in ours if k in theirs and ours[k] != theirs[k]]
    if differ:
        listing = "; ".join(f"{k}: there {theirs[k]!s:.80}, here {ours[k]!s:.80}" for k in differ)
        raise CheckpointError(
            f"{workdir} holds a run of other arguments ({listing}); give this run another workdir"
        )
