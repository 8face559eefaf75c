"""Types of datasets, shared by sources, batches and reports. NumPy only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from hcjax.core import brief
from hcjax.data import arrays
from hcjax.data.statistics import statistics
from hcjax.errors import DataError

PARTS = ("train", "validation", "test")


class Split(NamedTuple):
    """Images with their labels.

    images: uint8[N, H, W, C] array, or float32 in 0..1, which is used as it is; or an object with
      `shape`, `dtype`, `__len__` and `__getitem__(int64[n]) -> uint8[n, H, W, C]` that reads on
      demand (`LazyImages`).
    labels: int32[N], each in [0, K).
    """

    images: Any
    labels: np.ndarray

    def __repr__(self) -> str:
        return f"Split({brief.value(self.images)}, {brief.value(self.labels)})"


class Parts(NamedTuple):
    """The ready-made splits of a source; None where it has none."""

    class_names: tuple[str, ...]
    train: Split
    validation: Split | None = None
    test: Split | None = None

    __repr__ = brief.record


@dataclass(frozen=True, repr=False)
class Dataset:
    """Images of K classes in three splits; by hand, `Dataset(train=(images, labels))` is enough.

    name: for people and reports.
    class_names: K names; label k is `class_names[k]`. By default "0", "1", ... up to the highest
      label of any split.
    train, validation, test: disjoint splits, or pairs (images, labels) as `arrays.images` and
      `arrays.labels` take them; all but train may be empty, and are by default.
    mean, std: float32[C] in units where a pixel is 0..1, by default those of the training images.
      Networks get (image - mean) / std.
    statistics_examples: number of training images behind `mean` and `std`: all, unless the set is
      streamed.

    Raises:
      DataError: if images or labels cannot be used, with what is wrong with them.

    Example:
      >>> x, y = np.array([[[0.0]], [[1.0]]]), [0, 1]
      >>> data = Dataset(train=(x, y))
      >>> data.image_shape, data.class_names, data.mean.tolist(), len(data.test.labels)
      ((1, 1, 1), ('0', '1'), [0.5], 0)
    """

    name: str = "arrays"
    class_names: tuple[str, ...] | None = None
    train: Split | None = None
    validation: Split | None = None
    test: Split | None = None
    mean: np.ndarray | None = None
    std: np.ndarray | None = None
    statistics_examples: int | None = None

    def __post_init__(self):
        if self.train is None:
            raise DataError(f"{self.name}: a training part is needed: train=(images, labels)")
        given = {part: getattr(self, part) for part in PARTS}
        splits = {k: split_of(x, f"{self.name}, {k}") for k, x in given.items() if x is not None}
        train = splits["train"]
        splits = {part: splits.get(part) or take(train, np.arange(0)) for part in PARTS}
        for part, split in splits.items():
            if tuple(split.images.shape[1:]) != tuple(train.images.shape[1:]):
                raise DataError(
                    f"{self.name}, {part}: images are {list(split.images.shape[1:])}, those of "
                    f"train {list(train.images.shape[1:])}"
                )
        names = self.class_names
        if names is None:
            highest = max((s.labels.max() for s in splits.values() if len(s.labels)), default=-1)
            names = tuple(str(k) for k in range(int(highest) + 1))
        for part, split in splits.items():
            _check_labels(f"{self.name}, {part}", split.labels, len(names))
        mean, std, count = self.mean, self.std, self.statistics_examples
        if mean is None or std is None:
            ours = statistics(train.images)
            mean, std = (ours[0] if mean is None else mean), (ours[1] if std is None else std)
            count = ours[2] if count is None else count
        channels = train.images.shape[3]
        facts = {
            "class_names": names if isinstance(names, tuple) else tuple(map(str, names)),
            "mean": _per_channel(f"{self.name}, mean", mean, channels),
            "std": _per_channel(f"{self.name}, std", std, channels),
            "statistics_examples": len(train.labels) if count is None else count,
        }
        for key, value in (splits | facts).items():
            object.__setattr__(self, key, value)  # the class is frozen

    def __repr__(self) -> str:
        sizes = ", ".join(f"{part} {len(getattr(self, part).labels):,}" for part in PARTS)
        shape = " x ".join(map(str, self.image_shape))
        numbers = [" ".join(f"{x:.4g}" for x in np.ravel(v)) for v in (self.mean, self.std)]
        return (
            f"Dataset {self.name}: {self.num_classes} classes, {shape} {self.train.images.dtype}; "
            f"{sizes}; mean {numbers[0]}, std {numbers[1]}"
        )

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of every image."""
        return tuple(self.train.images.shape[1:])


class LazyImages:
    """Images that are read when indexed, with the interface of a uint8[N, H, W, C] array."""

    dtype = np.dtype(np.uint8)

    def __init__(
        self,
        read: Callable[[int], np.ndarray],
        rows: np.ndarray,
        image_shape: tuple[int, int, int],
    ):
        """`read(row)` returns one uint8[H, W, C] image; it is called from several threads."""
        self.read = read
        self.rows = rows
        self.shape = (len(rows), *image_shape)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: np.ndarray | slice) -> np.ndarray:
        rows = self.rows[index]
        images = np.empty((len(rows), *self.shape[1:]), np.uint8)
        for i, row in enumerate(rows.tolist()):
            images[i] = self.read(row)
        return images

    def take(self, index: np.ndarray) -> LazyImages:
        """Selects the images at `index` without reading them."""
        return LazyImages(self.read, self.rows[index], self.shape[1:])


def take(split: Split, index: np.ndarray) -> Split:
    """Selects the examples of `split` at the positions `index`; lazy images stay unread.

    Args:
      split: any split.
      index: int64[n] positions in `split`.

    Returns:
      A split of n examples.

    Example:
      >>> split = Split(np.zeros((3, 1, 1, 1), np.uint8), np.array([5, 6, 7], np.int32))
      >>> take(split, np.array([2, 0])).labels.tolist()
      [7, 5]
    """
    lazy = isinstance(split.images, LazyImages)
    return Split(split.images.take(index) if lazy else split.images[index], split.labels[index])


def split_of(pair: Any, where: str) -> Split:
    """Converts a pair (images, labels) to a split.

    Args:
      pair: a Split, a tuple or a list of two, see `arrays.images` and `arrays.labels`.
      where: for messages.

    Raises:
      DataError: if it is no pair, cannot be used, or has not one label for each image.

    Example:
      >>> split_of((np.zeros((2, 4, 4)), [0, 1]), "mine").images.shape
      (2, 4, 4, 1)
    """
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise DataError(f"{where}: expected a pair (images, labels), found {brief.value(pair)}")
    images = arrays.images(pair[0], where)
    labels = arrays.labels(pair[1], where)
    if len(labels) != len(images):
        raise DataError(f"{where}: {len(images):,} images have {len(labels):,} labels")
    return Split(images, labels)


def _check_labels(where: str, labels: np.ndarray, classes: int) -> None:
    """Raises DataError unless every label is in [0, classes)."""
    if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        raise DataError(
            f"{where}: labels must be in [0, {classes}), the number of class_names, found "
            f"{labels.min()} to {labels.max()}"
        )


def _per_channel(where: str, given: Any, channels: int) -> np.ndarray:
    """Returns one number for each channel; raises DataError for others, or an illegal one."""
    value = given if isinstance(given, np.ndarray) else np.asarray(given, np.float32)
    if value.size == 1 and value.shape != (channels,):
        value = np.full(channels, value.reshape(()))
    legal = value.shape == (channels,) and np.isfinite(value).all()
    if not legal or (where.endswith("std") and not (value > 0).all()):
        rule = "> 0" if where.endswith("std") else "finite"
        raise DataError(
            f"{where}: expected {channels} numbers {rule}, one a channel, found "
            f"{brief.value(given)}"
        )
    if where.endswith("mean") and np.abs(value).max() > 1:
        raise DataError(
            f"{where}: expected it where a pixel is 0..1, found {value.tolist()}; of pixels in "
            "0..255 give mean / 255 and std / 255"
        )
    return value
