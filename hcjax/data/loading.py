"""`load` reads a dataset from a source; `describe` says its shape. A new source is one line here.

A source reads and checks its ready-made splits. Splitting, memory and statistics are shared.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hcjax.core import registry
from hcjax.data.dataset import PARTS, Dataset, Split
from hcjax.data.images import check_channels, fitted, size_pair
from hcjax.data.sources import folder, idx, masks, mnist, npz, table, tfds, wav
from hcjax.data.split import cut
from hcjax.data.statistics import statistics
from hcjax.errors import ConfigError, DataError, unknown_name

# name -> function (name, path, form) -> Parts; `form` holds image_size, channels and the limit
SOURCES = {
    "mnist": lambda name, path, form: mnist.load(),
    "idx": lambda name, path, form: idx.load(_needed(path, "idx")),
    "npz": lambda name, path, form: npz.load(_needed(path, "npz")),
    "folder": lambda name, path, form: folder.load(
        _needed(path, "folder"), image_size=form["image_size"], channels=form["channels"]
    ),
    "tfds": lambda name, path, form: tfds.load(name, path, **form),
}
# name -> function (path, **options) -> Parts; sources of other examples than labelled images
OTHERS = {
    "csv": table.load,
    "jsonl": table.load,
    "masks": masks.load,
    "wav": wav.load,
}
# source -> function (name, path, **form) -> ((H, W, C), K) that needs no files; others are read
DESCRIPTIONS = {"tfds": tfds.describe}


class Description(NamedTuple):
    """What is known of a dataset before its images are.

    image_shape: (H, W, C). num_classes: K. origin: where that is known from, in words. dtype: of
    the pixels.
    """

    image_shape: tuple[int, int, int]
    num_classes: int
    origin: str
    dtype: str = "uint8"


def load(
    source: str = "mnist",
    *,
    name: str | None = None,
    path: str | None = None,
    validation: float = 5000,
    test: float = 0.1,
    seed: int = 0,
    image_size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    limit: int | None = None,
    memory_limit_bytes: int = 4 * 2**30,
    about: dict | None = None,
    **options: object,
) -> Dataset:
    """Loads a dataset in three splits, with the statistics of its training set.

    Validation is carved from train, and so is test if the source has none. Every class keeps its
    share, and the same arguments give the same splits on every machine. If the source has a single
    ready split besides train, of any name, it becomes the test set (e.g. ImageNet's "validation").
    The test set is never used to choose anything.

    Args:
      source: name in `SOURCES`: "mnist" (packed with hcjax), "idx" (a folder of IDX files),
        "folder" (images, one sub-folder per class), "npz" (a NumPy archive), "tfds" (TensorFlow
        Datasets). Or in `OTHERS`: "csv" and "jsonl" (rows of text and numbers), "masks" (images
        with a mask each), "wav" (sounds, one sub-folder per class). The `load` of each, in
        `hcjax.data.sources`, documents its files.
      name: of the set, for tfds; otherwise a name for reports.
      path: the folder or file; for tfds the `data_dir`, on disk or `gs://...`.
      validation: number of examples (int), or share of train (float in (0, 1)), if none is
        ready; 0 for none, to train on all examples.
      test: likewise, for a source without a test set.
      seed: of the carving, in [0, 2**64).
      image_size: pixels, H = W or (H, W), that images are fitted to; None: as they are.
      channels: 1 or 3; None: as they are.
      limit: keep a stratified sample of this size of each split; for tests and demos.
      memory_limit_bytes: decoded images are held in memory up to this size, and streamed beyond.
      about: `Dataset.about` of a training, whose vocabulary and statistics are used in place of
        those of this training part: what its network is scored on must be read so.
      **options: of a source in `OTHERS`, e.g. target="class", text="title" of "csv".

    Returns:
      The dataset. Images are uint8[N, H, W, C] arrays, or `LazyImages` if they are streamed; then
      `mean` and `std` come from a fixed sample of 4,096 training images.

    Raises:
      ConfigError: if an argument is out of range or there is no such source.
      DataError: if files are missing, damaged or inconsistent; the message names the file, the
        expected content and the actual one.

    Example:
      >>> data = load("mnist", limit=100)
      >>> data.train.images.shape, len(data.test.labels), data.num_classes
      ((100, 28, 28, 1), 100, 10)
    """
    if source not in (*SOURCES, *OTHERS):
        raise ConfigError(unknown_name("data source", source, (*SOURCES, *OTHERS)))
    check_channels(channels)
    cuts = {"validation": validation, "test": test, "seed": seed, "limit": limit}
    if source in OTHERS:
        given = {"image_size": image_size, "channels": channels}
        options |= {k: v for k, v in given.items() if v is not None}
        return _load_other(source, name, path, options, cuts, about)
    if options:
        raise ConfigError(f"source {source} takes no {', '.join(options)}")
    form = {
        "image_size": size_pair(image_size),
        "channels": channels,
        "memory_limit_bytes": memory_limit_bytes,
    }
    parts = SOURCES[source](name, path, form)
    splits = cut(parts, **cuts)
    height, width, own_channels = parts.train.images.shape[1:]
    shape = (*(form["image_size"] or (height, width)), channels or own_channels)
    class_names = parts.class_names
    del parts  # or a source's arrays would be held beside the copies that were cut from them
    train, validation, test = _in_memory([_fitted(s, shape) for s in splits], memory_limit_bytes)
    return Dataset(name or source, class_names, train, validation, test, *statistics(train.images))


def describe(
    source: str = "mnist",
    *,
    name: str | None = None,
    path: str | None = None,
    image_size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    memory_limit_bytes: int = 4 * 2**30,
    **_: object,
) -> Description:
    """Returns the shape of a dataset's images and the number of its classes.

    A source in `DESCRIPTIONS` says so itself. Others are read, if their files are there; if not,
    and the last part of `path`, or `name`, is that of a set of TensorFlow Datasets
    (`/usr/share/datasets/fashion-mnist`), it is taken to be that set.

    Args:
      source, name, path, image_size, channels, memory_limit_bytes: as of `load`, whose other
        arguments change nothing here.

    Raises:
      ConfigError: if an argument is out of range or there is no such source.
      DataError: if there are no files to read and no such set; or as of `load`.

    Example:
      >>> describe("mnist").image_shape, describe("tfds", name="emnist/balanced").num_classes
      ((28, 28, 1), 47)
      >>> describe("idx", path="/nowhere/fashion-mnist")[:2]
      ((28, 28, 1), 10)
    """
    if source not in SOURCES:
        raise ConfigError(unknown_name("data source", source, SOURCES))
    check_channels(channels)
    size = size_pair(image_size)
    form = {"image_size": size, "channels": channels, "memory_limit_bytes": memory_limit_bytes}
    if source in DESCRIPTIONS:
        shape, num_classes = DESCRIPTIONS[source](name, path, **form)
        return Description(shape, num_classes, f"{source}'s own description of {name}")
    if path is None or "://" in path or Path(path).exists():
        parts = SOURCES[source](name, path, form)
        height, width, own_channels = parts.train.images.shape[1:]
        shape = (*(size or (height, width)), channels or own_channels)
        origin, dtype = f"the {source} data at hand", str(parts.train.images.dtype)
        return Description(shape, len(parts.class_names), origin, dtype)
    reason = None
    for called in filter(None, (name, Path(path).stem)):
        try:
            shape, num_classes = tfds.describe(called.replace("-", "_"), None, **form)
        except DataError as error:
            reason = error
            continue
        origin = f"TensorFlow Datasets' description of {called}, as there is no {path}"
        return Description(shape, num_classes, origin)
    raise DataError(
        f"{path}: expected the data of source {source}, found nothing there; and of the set of "
        f"TensorFlow Datasets that its name may mean: {reason}"
    )


def _load_other(
    source: str,
    name: str | None,
    path: str | None,
    options: dict,
    cuts: dict,
    known: dict | None,
) -> Dataset:
    """Loads a dataset of a source in `OTHERS`."""
    registry.check(f"source '{source}'", OTHERS[source], options)
    parts = OTHERS[source](_needed(path, source), **options)
    splits, about = cut(parts, **cuts), parts.about
    if parts.finish is not None:
        convert, about = parts.finish(splits[0], known)
        splits = tuple(map(convert, splits))
    mean = std = None
    if parts.form != "arrays":
        mean, std, _ = statistics(splits[0].images)
    named = dict(zip(PARTS, splits, strict=True))
    return Dataset(
        name or source, parts.class_names, mean=mean, std=std, form=parts.form, about=about, **named
    )


def _needed(path: str | None, source: str) -> str:
    """Returns the path; raises ConfigError if there is none."""
    if not path:
        raise ConfigError(f"source {source} needs a path, e.g. data.path=/data/my-images")
    return path


def _fitted(split: Split, shape: tuple[int, int, int]) -> Split:
    """Fits the images of a split; a source's lazy images are fitted already."""
    if isinstance(split.images, np.ndarray):
        return split._replace(inputs=fitted(split.images, shape))
    return split


def _in_memory(splits: list[Split], memory_limit_bytes: int) -> list[Split]:
    """Reads lazy images into arrays if all splits fit into memory."""
    size_bytes = sum(np.prod(split.images.shape, dtype=np.int64) for split in splits)
    if size_bytes > memory_limit_bytes:
        return splits
    return [split._replace(inputs=_read(split.images)) for split in splits]


def _read(images) -> np.ndarray:
    """Reads all images into an array, in threads: decoding releases the interpreter's lock."""
    if isinstance(images, np.ndarray):
        return images
    out = np.empty(images.shape, np.uint8)

    def fill(rows):
        out[rows] = images[rows]

    with ThreadPoolExecutor() as pool:
        list(pool.map(fill, (np.arange(i, min(i + 64, len(out))) for i in range(0, len(out), 64))))
    return out
