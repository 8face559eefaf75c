"""Types of datasets, shared by sources, batches and reports. NumPy only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from hcjax.errors import DataError


class Split(NamedTuple):
    """Images with their labels.

    images: uint8[N, H, W, C] array, or an object with `shape`, `dtype`, `__len__` and
      `__getitem__(int64[n]) -> uint8[n, H, W, C]` that reads on demand (`LazyImages`).
    labels: int32[N], each in [0, K).
    """

    images: Any
    labels: np.ndarray


class Parts(NamedTuple):
    """The ready-made splits of a source; None where it has none."""

    class_names: tuple[str, ...]
    train: Split
    validation: Split | None = None
    test: Split | None = None


@dataclass(frozen=True)
class Dataset:
    """Images of K classes in three splits; DataError if images or labels are not as a Split's.

    name: for people and reports.
    class_names: K names; label k is `class_names[k]`.
    train, validation, test: disjoint splits; `validation` may be empty.
    mean, std: float32[C] of the training set, in units where a pixel is 0..1.
    statistics_examples: number of training images behind `mean` and `std`: all, unless the set is
      streamed.
    """

    name: str
    class_names: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    mean: np.ndarray
    std: np.ndarray
    statistics_examples: int

    def __post_init__(self):
        for part in ("train", "validation", "test"):
            _check(f"{self.name}, {part}", getattr(self, part), len(self.class_names))

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

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        images = np.empty((len(index), *self.shape[1:]), np.uint8)
        for i, row in enumerate(self.rows[index].tolist()):
            images[i] = self.read(row)
        return images

    def take(self, index: np.ndarray) -> LazyImages:
        """Selects the images at `index` without reading them."""
        return LazyImages(self.read, self.rows[index], self.shape[1:])


def _check(where: str, split: Split, classes: int) -> None:
    """Raises DataError unless a split holds uint8 images and a legal label of each.

    Args:
      where: the split, for the message. split: any. classes: K.
    """
    images, labels = split
    if len(images.shape) != 4 or images.dtype != np.uint8:
        raise DataError(
            f"{where}: expected images uint8[N, H, W, C], a pixel 0 to 255, found "
            f"{images.dtype}{list(images.shape)}"
        )
    if images.shape[3] > 4 and images.shape[1] in (1, 3, 4):
        raise DataError(
            f"{where}: images {list(images.shape)} look like [N, C, H, W]; give [N, H, W, C], "
            "images.transpose(0, 2, 3, 1)"
        )
    labels = np.asarray(labels)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(
            f"{where}: expected labels int[N], found {labels.dtype}{list(labels.shape)}"
        )
    if len(labels) != len(images):
        raise DataError(f"{where}: {len(images):,} images have {len(labels):,} labels")
    if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        raise DataError(
            f"{where}: labels must be in [0, {classes}), the number of class_names, found "
            f"{labels.min()} to {labels.max()}"
        )


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


def readable(images, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict[int, str]]:
    """Reads images, and collects the errors of those that cannot be read.

    Args:
      images: of a split.
      rows: int64[n] positions in `images`.

    Returns:
      (readable rows int64[m], their images uint8[m, H, W, C], other row -> message of its
      DataError).

    Example:
      >>> readable(np.zeros((3, 1, 1, 1), np.uint8), np.array([2, 0]))[0].tolist()
      [2, 0]
    """
    try:
        return rows, images[rows], {}
    except DataError:
        pass  # at least one is damaged: read them one by one
    arrays, errors = {}, {}
    for row in rows.tolist():
        try:
            arrays[row] = images[np.array([row])]
        except DataError as error:
            errors[row] = str(error)
    none = np.empty((0, *images.shape[1:]), np.uint8)
    return np.array(list(arrays), np.int64), np.concatenate([none, *arrays.values()]), errors
