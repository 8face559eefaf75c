"""The metrics of a run, as a JSON Lines file and as TensorBoard events.

In come a step, a split and its metrics; out go one line of `metrics.jsonl` and TensorBoard
scalars under `tensorboard/train`, `tensorboard/validation` (drawn into one chart). After a
resume both continue as if the run had never stopped.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Self

from hcjax.core import files

METRICS_FILE = "metrics.jsonl"
SPLITS = ("train", "validation", "test")
_FLUSH_SECONDS = 2.0


class MetricWriter:
    """Appends the metrics of a run to `metrics.jsonl` and to TensorBoard event files.

    A line is one JSON object, `{"step": 100, "split": "train", "loss": 0.25, ...}`. NaN and
    infinities are written as `null` (JSON has no literal for them) and read back as NaN;
    TensorBoard gets them as they are.

    Opening drops the lines of steps after `start_step`, which a killed process wrote before it
    could save the same step, and a truncated last line. The file is replaced atomically.
    `start_step=0` is a new run.

    Args:
      workdir: folder of the files; created if missing.
      start_step: completed steps of the checkpoint that the run resumes from.
      tensorboard: whether to write event files. TensorboardX writes them, never TensorFlow; it is
        imported at the first `write`, after the first training step.

    Raises:
      CheckpointError: if a file cannot be written, here or in `write`, e.g. a full disk.

    Note:
      One process writes: on many hosts, the first. A line reaches the system before `write`
      returns, so a killed process loses none. Events are flushed every 2 seconds, because that
      waits for the disk.

    Example:
      >>> import tempfile
      >>> workdir = tempfile.mkdtemp()
      >>> with MetricWriter(workdir, tensorboard=False) as writer:
      ...     writer.write(1, "train", {"loss": 0.5})
      >>> read_metrics(workdir)
      [{'step': 1, 'split': 'train', 'loss': 0.5}]
    """

    def __init__(
        self, workdir: str | os.PathLike, start_step: int = 0, *, tensorboard: bool = True
    ):
        self._folder = Path(workdir)
        self._path = self._folder / METRICS_FILE
        self._start_step, self._tensorboard = start_step, tensorboard
        self._events: dict[str, object] = {}
        self._flushed = time.monotonic()
        _drop_after(self._path, start_step)
        with self._naming_the_file():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self._path, "ab", buffering=0)  # noqa: SIM115 (closed in `close`)

    def write(self, step: int, split: str, values: Mapping[str, object]) -> None:
        """Appends one line to the file, and the same scalars to TensorBoard.

        Args:
          step: completed steps.
          split: one of `SPLITS`.
          values: metrics by name; 0-d arrays are converted, which waits for the device.

        Raises:
          ValueError: if `split` is not in `SPLITS`, or a name is `step` or `split`.
        """
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
        taken = {"step", "split"} & values.keys()
        if taken:
            raise ValueError(f"'{taken.pop()}' is set by the writer; name the number otherwise")
        numbers = {name: _number(x) for name, x in values.items()}
        line = json.dumps(files.jsonable({"step": int(step), "split": split} | numbers))
        with self._naming_the_file():
            self._append((line + "\n").encode())
            if self._tensorboard:
                self._write_events(int(step), split, numbers)

    def close(self) -> None:
        """Flushes and closes the files; a second call does nothing."""
        with self._naming_the_file():
            for events in self._events.values():
                events.close()
            self._events = {}
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _append(self, line: bytes) -> None:
        """Writes the whole line; a filling disk may take it in parts."""
        while line:
            line = line[self._file.write(line) :]

    def _write_events(self, step: int, split: str, numbers: Mapping[str, float]) -> None:
        """Writes one event with a scalar per metric."""
        from tensorboardX.proto import event_pb2, summary_pb2

        if split not in self._events:
            self._events[split] = self._open_events(split)
        scalars = [
            summary_pb2.Summary.Value(tag=name, simple_value=x) for name, x in numbers.items()
        ]
        event = event_pb2.Event(
            wall_time=time.time(), step=step, summary=summary_pb2.Summary(value=scalars)
        )
        self._events[split].write(event.SerializeToString())
        if time.monotonic() - self._flushed > _FLUSH_SECONDS:
            for events in self._events.values():
                events.flush()
            self._flushed = time.monotonic()

    def _open_events(self, split: str):
        """Opens an event file that hides events after `start_step` in earlier files.

        `SummaryWriter` is not used: its queue and thread lose events and errors at a kill or on
        a full disk, and its `flush` sleeps.
        """
        from tensorboardX.proto import event_pb2
        from tensorboardX.record_writer import RecordWriter

        folder = self._folder / "tensorboard" / split
        folder.mkdir(parents=True, exist_ok=True)
        now = time.time()
        # the names sort by time, which is the order in which TensorBoard reads the files
        name = f"events.out.tfevents.{now:017.6f}.{socket.gethostname()}.{os.getpid()}"
        events = RecordWriter(str(folder / name))
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        first = event_pb2.Event(wall_time=now, file_version="brain.Event:2")
        # at this mark TensorBoard drops its events of this step and later ones
        mark = event_pb2.Event(wall_time=now, step=self._start_step + 1, session_log=start)
        for event in (first, mark):
            events.write(event.SerializeToString())
        return events

    @contextlib.contextmanager
    def _naming_the_file(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise files.unwritable(self._path, error) from error


def read_metrics(workdir: str | os.PathLike) -> list[dict[str, object]]:
    """Reads the metrics of a run from `metrics.jsonl`, in the order of writing.

    Args:
      workdir: the run's folder.

    Returns:
      One dict per step and split: `step`, `split` and the metrics, NaN where the file holds
      `null`. Several lines of the same step and split are merged; the later value wins. A missing
      file gives an empty list.

    Note:
      A truncated last line is skipped; any other damaged line is skipped with a warning.

    Example:
      >>> import tempfile
      >>> read_metrics(tempfile.mkdtemp())
      []
    """
    merged: dict[tuple, dict[str, object]] = {}
    for record, _ in _lines(Path(workdir) / METRICS_FILE):
        numbers = {name: math.nan if x is None else x for name, x in record.items()}
        merged.setdefault((record["step"], record["split"]), {}).update(numbers)
    return list(merged.values())


def _lines(path: Path) -> list[tuple[dict, bytes]]:
    """Returns the complete lines of the file, each as (object, bytes)."""
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    records = []
    for number, line in enumerate(lines[:-1], 1):  # bytes after the last newline are truncated
        try:
            record = json.loads(line)
            if not isinstance(record["step"], int) or not isinstance(record["split"], str):
                raise TypeError
        except (ValueError, KeyError, TypeError):
            warnings.warn(
                f"{path}, line {number}: expected a JSON object with 'step' and 'split', found "
                f"{line[:60]!r}; passed over",
                stacklevel=3,
            )
        else:
            records.append((record, line))
    return records


def _drop_after(path: Path, step: int) -> None:
    """Rewrites the file without lines of later steps and without damaged ones."""
    content = b"".join(line + b"\n" for record, line in _lines(path) if record["step"] <= step)
    if path.exists() and path.read_bytes() != content:
        files.write_bytes(path, content)


def _number(x: object) -> int | float:
    """Converts a scalar of any kind to a Python number."""
    return x if isinstance(x, int | float) else float(x)  # type: ignore[arg-type]
