"""What a teacher says of the images of a training: in the step, once for all, or kept in a file.

Order and augmentation are a pure function of (key, step), and so are the teacher's logits: a run
with the same key, batches and augmentation, e.g. with another student or temperature, finds them.
Without augmentation they are a function of the image alone: one pass over them is enough.
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
from hcjax.data.dataset import Dataset
from hcjax.errors import CheckpointError, ConfigError
from hcjax.report.progress import Progress
from hcjax.train import parallel, step

LOGITS = "teacher_logits"  # of a batch
TABLE_BYTES = 2**28  # of logits in memory, at most
HEADER_BYTES = 4096  # JSON, filled up with spaces; then a record for each step
FORMAT = "hcjax teacher's logits 1"


def with_teacher(prepare: Callable, teacher: Callable) -> Callable:
    """Returns `prepare`, after which a batch's target is the pair (target, teacher's logits).

    Args:
      prepare: `(batch, key) -> batch`, see `make_prepare`.
      teacher: `images -> logits`, or any pytree of arrays, called on the prepared images unless
        the batch has "teacher_logits" already.

    Raises:
      ConfigError: if the teacher is no function.

    Example:
      >>> ready = with_teacher(lambda batch, key: batch, lambda images: 2 * images)
      >>> ready({"image": 1.0, "target": 3}, None)["target"]
      (3, 2.0)
      >>> ready({"image": 1.0, "target": 3, "teacher_logits": 5.0}, None)["target"]
      (3, 5.0)
    """

    if not callable(teacher):
        raise ConfigError(
            f"teacher= is called on images, and a {type(teacher).__name__} cannot be: of a Model, "
            "e.g. from `hcjax.load_any`, give `lambda images: model.apply(model.params, images)`"
        )

    def prepared(batch: dict, key: jax.Array | None) -> dict:
        known = batch.get(LOGITS)
        batch = prepare({k: v for k, v in batch.items() if k != LOGITS}, key)
        logits = teacher(batch["image"]) if known is None else known
        return batch | {"target": (batch["target"], logits)}

    return prepared


@contextmanager
def remembered(
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
    """Gives `(step, sharded batch) -> batch` with the teacher's logits, from a file or into it.

    Without a file, images that nothing augments are shown to the teacher once, before the first
    step, where that is less work: on one host, in a training of an epoch or more, and if all the
    logits take 256 MiB at most. Other batches stay as they are, and the step asks the teacher.

    A record of the file is a checksum and float32[n, K], at a place that follows from the step
    alone: one that is missing or damaged is computed and written again, and two runs that fill one
    file at a time write the same. It takes 4 · K bytes for each image of each step. The first run
    augments its images twice, for the teacher and for the student; the next ones save the teacher.

    Args:
      path: the file, made if it is missing; None for none.
      teacher: `images -> logits`; nothing in the file says which, so its name should. None for
        none: batches stay as they are.
      data, augment, key: as of `fit`.
      identity: JSON object of what makes a run the same, as `fit` writes it down.
      steps: of the whole training. quiet: show no progress.

    Raises:
      ConfigError: if the file is of another training, naming what differs; or if the teacher
        returns more than logits, of which there is no file.
      CheckpointError: if it is no such file, or cannot be read or written.
    """
    hosts, size = jax.process_count(), len(data.train.labels)
    once = hosts == 1 and steps * identity["batch_size"] >= size and not augment
    once = once and 4 * size * data.num_classes <= TABLE_BYTES
    if teacher is not None and (path or once) and not _logits_alone(teacher, data):
        if path:
            raise ConfigError(f"{path} can keep a teacher's logits, and this one returns more")
        once = False
    if teacher is None or (path is None and not once):
        yield lambda number, batch: batch
        return
    known = {"mean": data.mean, "std": data.std, "num_classes": data.num_classes}
    prepare = make_prepare(**known, augment=augment)

    def teach(number, batch, key):
        prepare_key, _ = step.keys(key, number)
        return teacher(prepare(batch, prepare_key)["image"]).astype(np.float32)

    teach = parallel.teach(teach, accelerate=identity["accelerate"])
    if path is None:
        yield _of_every_image(teach, data, key, identity["batch_size"], quiet)
        return
    path = Path(path).expanduser()
    facts = {k: v for k, v in identity.items() if k not in ("ema_decay", "accelerate")}
    facts |= {k: getattr(data, k) for k in ("image_shape", "mean", "std")}
    facts |= {"images_crc32": _seen(data.train.images), "rng": str(jax.random.key_impl(key))}
    facts = jsonable(facts | {"format": FORMAT, "hosts": hosts})
    pending = []
    with _explained(path):
        file = _open(path, facts)

    def seek(number, labels):
        """Returns the length of a step's record, which the file is then at."""
        record = 4 + 4 * labels.size * data.num_classes
        file.seek(HEADER_BYTES + (number * hosts + jax.process_index()) * record)
        return record

    def write():
        """Writes what the step before was told; this one's computation goes on meanwhile."""
        while pending:
            number, labels, logits = pending.pop()
            values = np.ascontiguousarray(parallel.local_rows(logits), "<f4").tobytes()
            with _explained(path):
                seek(number, labels)
                file.write(_checksum(values) + values)

    def told(number: int, batch: dict) -> dict:
        write()
        labels = batch["label"]
        with _explained(path):
            record = seek(number, labels)
            found = file.read(record)
        if len(found) == record and _checksum(found[4:]) == found[:4]:
            known = np.frombuffer(found, "<f4", offset=4)
            return batch | {LOGITS: known.reshape(*labels.shape, data.num_classes)}
        logits = teach(np.int32(number), batch, key)
        pending.append((number, labels, logits))
        return batch | {LOGITS: logits}

    with file:
        yield told
        write()


def _of_every_image(
    teach: Callable, data: Dataset, key: jax.Array, batch_size: int, quiet: bool
) -> Callable[[int, dict], dict]:
    """Returns `(step, sharded batch) -> batch` with logits that were all computed before."""
    size, found = len(data.train.labels), []
    stream = batches.eval_batches(data.train, batch_size=batch_size)
    with Progress(-(-size // batch_size), batch_size=batch_size, quiet=quiet, label="teacher") as p:
        for batch in stream:
            shown = {k: batch[k] for k in ("image", "label")}
            shown["position"] = np.arange(batch_size, dtype=np.int32)
            found.append(parallel.local_rows(teach(np.int32(0), parallel.shard(shown), key)))
            p.update(len(found))
    table, seed = np.concatenate(found)[:size], order.seed_of(key)

    def told(number: int, batch: dict) -> dict:
        rows = batches.indices(seed=seed, step=number, batch_size=batch_size, size=size)
        return batch | {LOGITS: table[rows].reshape(*batch["label"].shape, -1)}

    return told


def _logits_alone(teacher: Callable, data: Dataset) -> bool:
    images = jax.ShapeDtypeStruct((1, *data.image_shape), np.float32)
    return isinstance(jax.eval_shape(teacher, images), jax.ShapeDtypeStruct)


def _seen(images: Any) -> int:
    """Returns a checksum of images: of all, or of some where they are many, or read on demand."""
    if not (isinstance(images, np.ndarray) and images.nbytes <= TABLE_BYTES):
        images = images[np.linspace(0, len(images) - 1, min(len(images), 256)).astype(np.int64)]
    return zlib.crc32(np.ascontiguousarray(images))


def _checksum(values: bytes) -> bytes:
    return zlib.crc32(values).to_bytes(4, "little")


def _open(path: Path, facts: dict) -> BinaryIO:
    """Returns the file, open for reading and writing, made if it is missing; checks its header."""
    header = json.dumps(facts, sort_keys=True).encode()
    if len(header) > HEADER_BYTES:
        raise ConfigError(f"too many augmentations for {path}: {len(header)} bytes of options")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    file = open(path, "r+b", buffering=0)  # noqa: SIM115
    try:
        if found := file.read(HEADER_BYTES):
            _compare(path, found, facts)
        else:
            file.write(header.ljust(HEADER_BYTES))
    except BaseException:
        file.close()
        raise
    return file


def _compare(path: Path, found: bytes, facts: dict) -> None:
    try:
        there: Any = json.loads(found)
        right = there["format"] == FORMAT
    except (ValueError, TypeError, KeyError):
        right = False
    if not right:
        raise CheckpointError(f"{path} does not hold a teacher's logits; move it, or name another")
    differ = [k for k in sorted(facts | there) if facts.get(k) != there.get(k)]
    if differ:
        lines = "; ".join(f"{k} is {there.get(k)!r} there, {facts.get(k)!r} here" for k in differ)
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
