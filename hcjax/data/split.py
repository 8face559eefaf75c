"""Splitting of a dataset.

In: the ready-made splits of a source (`Parts`). Out: train, validation and test. Pure NumPy; no
file is opened, and lazy images stay unread.
"""

from __future__ import annotations

import numpy as np

from hcjax.data import order
from hcjax.data.dataset import Parts, Split, are_labels, take
from hcjax.errors import ConfigError, DataError


def choose(labels: np.ndarray, count: int, *, seed: int) -> np.ndarray:
    """Draws a stratified sample: positions of `count` examples, with every class in its share.

    Each class is shuffled, its r-th of n examples gets the place (r + 1/2) / n, and the `count`
    examples with the lowest places are chosen. A class of one example has the place 1/2, so it
    stays in the larger part.

    Args:
      labels: int32[N].
      count: in [0, N].
      seed: the choice depends on `labels`, `count` and `seed` only.

    Returns:
      int64[count], ascending.

    Example:
      >>> chosen = choose(np.array([0, 0, 0, 0, 1, 1, 1, 1]), 4, seed=0)
      >>> np.bincount(np.array([0, 0, 0, 0, 1, 1, 1, 1])[chosen]).tolist()
      [2, 2]
    """
    shuffled = order.permutation(seed=seed, stream=order.SPLIT_STREAM, size=len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    _, starts, counts = np.unique(labels[by_class], return_index=True, return_counts=True)
    rank = np.arange(len(labels)) - np.repeat(starts, counts)
    place = np.empty(len(labels))
    place[by_class] = (rank + 0.5) / np.repeat(counts, counts)
    # equal places are ordered at random, or low classes would always come first
    first = shuffled[np.argsort(place[shuffled], kind="stable")[:count]]
    return np.sort(first)


def carve(
    labels: np.ndarray, amount: float, *, seed: int, what: str
) -> tuple[np.ndarray, np.ndarray]:
    """Divides positions into (remaining, carved), both ascending and stratified.

    Args:
      labels: int32[N] of the split to carve from.
      amount: number of examples (int), or share of N (float in (0, 1)); 0 carves nothing.
      seed: the choice depends on `labels`, `amount` and `seed` only.
      what: name of the carved split, for messages.

    Returns:
      int64 arrays that together hold 0 .. N-1 once; classes keep their shares (`choose`).

    Raises:
      ConfigError: if `amount` is negative or a float outside [0, 1).
      DataError: if no example would remain.

    Example:
      >>> stay, carved = carve(np.zeros(10, np.int32), 0.2, seed=0, what="validation")
      >>> len(stay), len(carved)
      (8, 2)
    """
    size = len(labels)
    if amount < 0 or (isinstance(amount, float) and amount >= 1):
        raise ConfigError(
            f"{what} must be a number of examples (an integer >= 0) or a share (a float in "
            f"[0, 1)), got {amount!r}"
        )
    count = round(amount * size) if isinstance(amount, float) else int(amount)
    if count == 0:
        return np.arange(size), np.arange(0)
    if count >= size:
        raise DataError(
            f"{what}={amount} asks for {count} examples, but only {size} are there to carve from; "
            f"give a smaller number or a share such as {what}=0.1"
        )
    chosen = choose(labels, count, seed=seed)
    return np.delete(np.arange(size), chosen), chosen


def cut(
    parts: Parts, *, validation: float, test: float, seed: int, limit: int | None
) -> tuple[Split, Split, Split]:
    """Returns train, validation and test; missing ones are carved from train.

    A source with all three is used as it is. If it has a single ready split besides train (e.g.
    ImageNet's "validation"), that one becomes the test set, and validation is carved from train. So
    the test set is never used to choose anything. Images in memory are copied at most once, and a
    split that stays complete is not copied.

    Args:
      parts: from a source.
      validation: number or share of train to carve as validation if the source has none.
      test: the same for the test set, see `carve`.
      seed: of the carving.
      limit: keep a stratified sample of this size of each split (for tests and demos).

    Returns:
      Three disjoint splits (as far as the source's own parts are); lazy images stay unread.

    Raises:
      ConfigError, DataError: as `carve`, and if `limit` is less than 1.

    Example:
      >>> train = Split(np.zeros((10, 1, 1, 1), np.uint8), np.zeros(10, np.int32))
      >>> splits = cut(Parts(("a",), train), validation=2, test=0.1, seed=0, limit=None)
      >>> [len(split.labels) for split in splits]
      [7, 2, 1]
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"limit must be at least 1 (or None for all), got {limit}")
    train, ready_validation, ready_test = parts.train, parts.validation, parts.test
    classes = _classes(train)
    if ready_test is None:
        ready_validation, ready_test = None, ready_validation
    rows = np.arange(train.size)  # of the source's train that stay in train
    if ready_test is None:
        stay, carved = carve(classes, test, seed=seed, what="test")
        rows, tested = rows[stay], (train, rows[carved])
    else:
        tested = ready_test, np.arange(ready_test.size)
    if ready_validation is None:
        stay, carved = carve(classes[rows], validation, seed=seed, what="validation")
        rows, validated = rows[stay], (train, rows[carved])
    else:
        validated = ready_validation, np.arange(ready_validation.size)

    def select(split: Split, rows: np.ndarray) -> Split:
        """Selects at most `limit` of the rows; a complete split is not copied."""
        if limit is not None and limit < len(rows):
            rows = rows[choose(_classes(split)[rows], limit, seed=seed)]
        return split if len(rows) == split.size else take(split, rows)

    return select(train, rows), select(*validated), select(*tested)


def _classes(split: Split) -> np.ndarray:
    """Returns the labels of a split; zeros, one class, where its targets are none."""
    return split.targets if are_labels(split.targets) else np.zeros(split.size, np.int32)
