"""Teacher logits of a training: computed in the step, once for all images, or cached in a file.

Order and augmentation are a pure function of (key, step), and so are the teacher logits. A run
with the same key, batches and augmentation, e.g. with another student or temperature, reuses them.
Without augmentation they depend on the image alone: one pass over the images is enough.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import jax
import numpy as np

from hcjax.core.files import jsonable
from hcjax.data import batches, make_prepare, order
from hcjax.data.dataset import FORMS, Dataset
from hcjax.errors import CheckpointError, ConfigError
from hcjax.report.progress import Progress
from hcjax.train import parallel, step

LOGITS = "teacher_logits"  # of a batch
TABLE_BYTES = 2**28  # of logits in memory, at most
HEADER_BYTES = 4096  # JSON, filled up with spaces; then a record for each step
FORMAT = "hcjax teacher's logits 1"


def with_teacher(prepare: Callable, teacher: Callable) -> Callable:
    """Extends `prepare`: a batch's target becomes the pair (target, teacher logits).

    Args:
      prepare: `(batch, key) -> batch`, see `make_prepare`.
      teacher: `images -> logits`, or any pytree of arrays, called on the prepared images unless
        the batch has "teacher_logits" already.

    Raises:
      ConfigError: if the teacher is not callable.

    Example:
      >>> ready = with_teacher(lambda batch, key: batch, lambda images: 2 * images)
      >>> ready({"inputs": 1.0, "target": 3}, None)["target"]
      (3, 2.0)
      >>> ready({"inputs": 1.0, "target": 3, "teacher_logits": 5.0}, None)["target"]
      (3, 5.0)
    """

    if not callable(teacher):
        raise ConfigError(
            f"teacher= is called on images, and a {type(teacher).__name__} cannot be: of a Model, "
            "e.g. of `model, _ = hcjax.load_any(path)`, give `lambda images: "
            "model.apply(model.params, images)`"
        )

    def prepared(batch: dict, key: jax.Array | None) -> dict:
        cached = batch.get(LOGITS)
        batch = prepare({k: v for k, v in batch.items() if k != LOGITS}, key)
        logits = teacher(batch["inputs"]) if cached is None else cached
        return batch | {"target": (batch["target"], logits)}

    return prepared


@contextmanager
def cached_logits(
    path: str | Path | None,
    teacher: Callable | None,
    *,
    data: Dataset,
    augment: Sequence[tuple[str, dict]],
    key: jax.Array,
    identity: dict,
    steps: int = 0,
    quiet: bool = True,
) -> Iterator[Callable[[int, dict], dict]]:
    """Yields `(step, sharded batch) -> batch`, which adds teacher logits, cached in a file.

    Without a file, the teacher sees all images once before the first step if that is less work:
    without augmentation, on one host, in a training of an epoch or more, and if all logits take at
    most 256 MiB. Otherwise batches stay as they are, and the step calls the teacher.

    A record of the file is a checksum and float32[n, K], at an offset that depends on the step
    alone. A missing or damaged record is computed and written again; two runs that fill one file at
    the same time write the same bytes. The file takes 4 · K bytes for each image of each step. The
    first run augments its images twice, for the teacher and for the student; later runs save the
    teacher.

    Args:
      path: the file, created if missing; None for no file.
      teacher: `images -> logits`; the file does not record which, so its name should. None leaves
        the batches as they are.
      data, augment, key: see `fit`.
      identity: JSON object that identifies the training, as `fit` records it.
      steps: of the whole training. quiet: show no progress.

    Raises:
      ConfigError: if the file is of another training, naming the differences; or if the teacher
        returns more than logits, which no file can hold.
      CheckpointError: if the file is of another format, or cannot be read or written.
    """
    hosts, size = jax.process_count(), data.train.size
    once = hosts == 1 and steps * identity["batch_size"] >= size and not augment
    once = once and data.form == FORMS[0] and 4 * size * data.num_classes <= TABLE_BYTES
    if path and data.form != FORMS[0]:
        raise ConfigError(f"{path}: teacher_logits keeps logits of labelled images; leave it out")
    if teacher is not None and (path or once) and not _returns_logits(teacher, data):
        if path:
            raise ConfigError(f"{path} can keep a teacher's logits, and this one returns more")
        once = False
    if teacher is None or (path is None and not once):
        yield lambda number, batch: batch
        return
    prepare = make_prepare(
        mean=data.mean, std=data.std, num_classes=data.num_classes, augment=augment
    )

    def compute(number, batch, key):
        prepare_key, _ = step.keys(key, number)
        return teacher(prepare(batch, prepare_key)["inputs"]).astype(np.float32)

    compute = parallel.teach(compute, accelerate=identity["accelerate"])
    if path is None:
        yield _from_table(compute, data, key, identity["batch_size"], quiet)
        return
    path = Path(path).expanduser()
    header = {k: v for k, v in identity.items() if k not in ("ema_decay", "accelerate")}
    header |= {k: getattr(data, k) for k in ("image_shape", "mean", "std")}
    crc32 = _images_checksum(data.train.images)
    header |= {"images_crc32": crc32, "rng": str(jax.random.key_impl(key))}
    header = jsonable(header | {"format": FORMAT, "hosts": hosts})
    pending = []
    with _explained(path):
        file = _open(path, header)

    def seek(number, labels):
        """Moves the file to a step's record and returns the length of the record."""
        record = 4 + 4 * labels.size * data.num_classes
        file.seek(HEADER_BYTES + (number * hosts + jax.process_index()) * record)
        return record

    def write():
        """Writes the logits of the step before, while those of this step are computed."""
        while pending:
            number, labels, logits = pending.pop()
            values = np.ascontiguousarray(parallel.local_rows(logits), "<f4").tobytes()
            with _explained(path):
                seek(number, labels)
                file.write(_checksum(values) + values)

    def add_logits(number: int, batch: dict) -> dict:
        write()
        labels = batch["labels"]
        with _explained(path):
            size = seek(number, labels)
            record = file.read(size)
        if len(record) == size and _checksum(record[4:]) == record[:4]:
            cached = np.frombuffer(record, "<f4", offset=4)
            return batch | {LOGITS: cached.reshape(*labels.shape, data.num_classes)}
        logits = compute(np.int32(number), batch, key)
        pending.append((number, labels, logits))
        return batch | {LOGITS: logits}

    with file:
        yield add_logits
        write()


def _from_table(
    compute: Callable, data: Dataset, key: jax.Array, batch_size: int, quiet: bool
) -> Callable[[int, dict], dict]:
    """Computes the logits of all images; returns `(step, sharded batch) -> batch` with them."""
    size, logits = len(data.train.labels), []
    stream = batches.eval_batches(data.train, batch_size=batch_size)
    with Progress(-(-size // batch_size), batch_size=batch_size, quiet=quiet, label="teacher") as p:
        for batch in stream:
            inputs = {k: batch[k] for k in ("inputs", "labels")}
            inputs["position"] = np.arange(batch_size, dtype=np.int32)
            logits.append(parallel.local_rows(compute(np.int32(0), parallel.shard(inputs), key)))
            p.update(len(logits))
    table, seed = np.concatenate(logits)[:size], order.seed_of(key)

    def add_logits(number: int, batch: dict) -> dict:
        rows = batches.indices(seed=seed, step=number, batch_size=batch_size, size=size)
        return batch | {LOGITS: table[rows].reshape(*batch["labels"].shape, -1)}

    return add_logits


def _returns_logits(teacher: Callable, data: Dataset) -> bool:
    """Tells whether a teacher returns logits alone."""
    images = jax.ShapeDtypeStruct((1, *data.image_shape), np.float32)
    return isinstance(jax.eval_shape(teacher, images), jax.ShapeDtypeStruct)


def _images_checksum(images: Any) -> int:
    """Returns a checksum of all images, or of 256 if they are large or lazy."""
    if not (isinstance(images, np.ndarray) and images.nbytes <= TABLE_BYTES):
        images = images[np.linspace(0, len(images) - 1, min(len(images), 256)).astype(np.int64)]
    return zlib.crc32(np.ascontiguousarray(images))


def _checksum(values: bytes) -> bytes:
    return zlib.crc32(values).to_bytes(4, "little")


def _open(path: Path, header: dict) -> BinaryIO:
    """Opens the file for reading and writing, creates it if missing, and checks its header."""
    content = json.dumps(header, sort_keys=True).encode()
    if len(content) > HEADER_BYTES:
        raise ConfigError(f"too many augmentations for {path}: {len(content)} bytes of options")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    file = open(path, "r+b", buffering=0)  # noqa: SIM115
    try:
        if old := file.read(HEADER_BYTES):
            _compare(path, old, header)
        else:
            file.write(content.ljust(HEADER_BYTES))
    except BaseException:
        file.close()
        raise
    return file


def _compare(path: Path, content: bytes, header: dict) -> None:
    """Raises unless a file's header is that of this training."""
    try:
        old: Any = json.loads(content)
        valid = old["format"] == FORMAT
    except (ValueError, TypeError, KeyError):
        valid = False
    if not valid:
        raise CheckpointError(f"{path} does not hold a teacher's logits; move it, or name another")
    differ = [k for k in sorted(header | old) if header.get(k) != old.get(k)]
    if differ:
        lines = "; ".join(f"{k} is {old.get(k)!r} there, {header.get(k)!r} here" for k in differ)
        raise ConfigError(f"{path} holds a teacher's logits of another training: {lines:.500}")


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"the teacher's logits cannot be kept in {path}: {error.strerror}; free space, or go "
            "on without that file"
        ) from error
