"""`load`: from the name of a source to a dataset. Adding a source is one file and one line here.

A source finds what is ready-made and refuses what is wrong. Splitting, memory and statistics are
the same for all of them.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from hcjax.data import folder, idx, mnist, npz, tfds
from hcjax.data.dataset import Dataset, Parts
from hcjax.data.images import check_channels, fit_all, size_pair
from hcjax.data.split import assemble
from hcjax.errors import ConfigError, unknown_name

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
) -> Dataset:
    """Returns a dataset in three parts, with the statistics of its training part.

    Validation is carved from train, and so is test where the source has none; every class keeps
    its share, and the same arguments give the same parts on every machine. Where the source has
    one ready part besides train, whatever its name, that part is the test (ImageNet's
    "validation"). The test part is never used to choose anything.

    Args:
      source: name in `SOURCES`: "mnist" (packed with hcjax), "idx" (a folder of IDX files),
        "folder" (images, one sub-folder per class), "npz" (a NumPy archive), "tfds" (TensorFlow
        Datasets). Each one's `load` says what it expects.
      name: of the set, for tfds; otherwise a name for reports.
      path: the folder or file; for tfds the `data_dir`, on disk or `gs://...`.
      validation: number of examples (int), or share of train (float in (0, 1)), where none is
        ready; 0: none, to train on everything.
      test: likewise, for a source without a test part.
      seed: of the carving, in [0, 2**64).
      image_size: pixels, H = W or (H, W), that images are fitted to; None: as they are.
      channels: 1 or 3; None: as they are.
      limit: keep this many examples of each part, every class with its share; for tests and
        demos.
      memory_limit_bytes: decoded images are held in memory up to this size, and streamed beyond.

    Returns:
      The dataset. Images are uint8[N, H, W, C] arrays, or `LazyImages` where they are streamed;
      `mean` and `std` then come from a fixed sample of 4,096 training images.

    Raises:
      ConfigError: if an argument is out of range or there is no such source.
      DataError: if files are missing, damaged or do not fit together; the message names the file,
        what was expected and what was found.

    Example:
      >>> data = load("mnist", limit=100)
      >>> data.train.images.shape, len(data.test.labels), data.num_classes
      ((100, 28, 28, 1), 100, 10)
    """
    if source not in SOURCES:
        raise ConfigError(unknown_name("data source", source, SOURCES))
    check_channels(channels)
    form = {
        "image_size": size_pair(image_size),
        "channels": channels,
        "memory_limit_bytes": memory_limit_bytes,
    }
    parts = _fit(SOURCES[source](name, path, form), form)
    return assemble(
        _in_memory(parts, memory_limit_bytes),
        name=name or source,
        validation=validation,
        test=test,
        seed=seed,
        limit=limit,
    )


def _needed(path: str | None, source: str) -> str:
    """The path, or ConfigError if there is none."""
    if not path:
        raise ConfigError(f"source {source} needs a path, e.g. data.path=/data/my-images")
    return path


def _each(parts: Parts, change) -> Parts:
    """The parts with `change(images)` instead of their images."""
    return Parts(
        parts.class_names,
        *(part and part._replace(images=change(part.images)) for part in parts[1:]),
    )


def _fit(parts: Parts, form: dict) -> Parts:
    """The parts with arrays in the wanted shape (lazy images are read in that shape)."""
    height, width, channels = parts.train.images.shape[1:]
    wanted = (*(form["image_size"] or (height, width)), form["channels"] or channels)
    return _each(parts, lambda x: fit_all(x, wanted) if isinstance(x, np.ndarray) else x)


def _in_memory(parts: Parts, memory_limit_bytes: int) -> Parts:
    """The parts with lazy images read into arrays, if all of them fit."""
    shapes = [part.images.shape for part in parts[1:] if part is not None]
    if sum(np.prod(shape, dtype=np.int64) for shape in shapes) > memory_limit_bytes:
        return parts

    def read(images):
        if isinstance(images, np.ndarray):
            return images
        out = np.empty(images.shape, np.uint8)
        chunks = [np.arange(i, min(i + 64, len(out))) for i in range(0, len(out), 64)]

        def fill(rows):
            out[rows] = images[rows]

        with ThreadPoolExecutor() as pool:  # decoding releases the interpreter's lock
            list(pool.map(fill, chunks))
        return out

    return _each(parts, read)
