"""How a dataset's parts are cut, and what is computed from the training part.

Comes in: the ready-made parts that a source found (`Parts`); goes out: train, validation and
test, and the normalisation statistics of train. Pure NumPy; no file is opened,
but lazy images are read for the statistics.
"""

from __future__ import annotations

import numpy as np

from hcjax.data import order
from hcjax.data.dataset import Parts, Split, readable, take
from hcjax.errors import ConfigError, DataError

STATISTICS_SAMPLE = 4096  # images read for mean and std when a set is streamed


def choose(labels: np.ndarray, count: int, *, seed: int) -> np.ndarray:
    """Returns the positions of `count` examples in which every class keeps its share.

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
    """Returns the positions (that stay, that are carved off), both ascending.

    Args:
      labels: int32[N] of what is carved from.
      amount: number of examples (int), or share of N (float in (0, 1)); 0 carves nothing.
      seed: the choice depends on `labels`, `amount` and `seed` only.
      what: the carved part's name, for messages.

    Returns:
      int64 arrays that together hold 0 .. N-1 once; classes keep their shares (`choose`).

    Raises:
      ConfigError: if `amount` is negative or a float outside [0, 1).
      DataError: if nothing would be left in the first part.

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
    """Returns train, validation and test, once the missing ones are carved from train.

    A source with train, validation and test is used as it is. One with a single ready part
    besides train (ImageNet's "validation", say) is reported on that part: it becomes the test,
    and validation is carved from train. So test is never used to choose anything. Images in
    memory are copied once at most, and a part that is used whole not at all.

    Args:
      parts: from a source.
      validation: how much of train becomes validation, where none is ready: see `carve`.
      test: how much of train becomes test, where none is ready.
      seed: of the carving.
      limit: keep this many examples of each part, chosen by class (for tests and demos).

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
    _, train, ready_validation, ready_test = parts
    if ready_test is None:
        ready_validation, ready_test = None, ready_validation
    rows = np.arange(len(train.labels))  # those of the source's train that stay train
    if ready_test is None:
        stay, carved = carve(train.labels, test, seed=seed, what="test")
        rows, tested = rows[stay], (train, rows[carved])
    else:
        tested = ready_test, np.arange(len(ready_test.labels))
    if ready_validation is None:
        stay, carved = carve(train.labels[rows], validation, seed=seed, what="validation")
        rows, validated = rows[stay], (train, rows[carved])
    else:
        validated = ready_validation, np.arange(len(ready_validation.labels))

    def taken(split: Split, rows: np.ndarray) -> Split:
        """The rows, at most `limit` of them; nothing is copied where they are the whole split."""
        if limit is not None and limit < len(rows):
            rows = rows[choose(split.labels[rows], limit, seed=seed)]
        return split if len(rows) == len(split.labels) else take(split, rows)

    return taken(train, rows), taken(*validated), taken(*tested)


def statistics(split: Split) -> tuple[np.ndarray, np.ndarray, int]:
    """Returns the mean and standard deviation of each channel, in units where a pixel is 0..1.

    Exact sums over the histogram of pixel values. Images that are streamed are not all read: a
    fixed sample of 4,096 (`STATISTICS_SAMPLE`) is, without those of it that cannot be read: the
    data report says which they are, and training stops at the first.

    Args:
      split: the training part, at least one example.

    Returns:
      mean float32[C], std float32[C] (1 where a channel is constant, so that it can be divided
      by), and the number of images they come from.

    Raises:
      DataError: if none of the images can be read.

    Example:
      >>> images = np.array([0, 255], np.uint8).reshape(2, 1, 1, 1)
      >>> mean, std, examples = statistics(Split(images, np.zeros(2, np.int32)))
      >>> mean.tolist(), std.tolist(), examples
      ([0.5], [0.5], 2)
    """
    size, channels = len(split.labels), split.images.shape[-1]
    sample = np.arange(size)
    if not isinstance(split.images, np.ndarray):
        sample = order.permutation(seed=0, stream=order.SAMPLE_STREAM, size=size)
        sample = np.sort(sample[:STATISTICS_SAMPLE])
    histogram = np.zeros((channels, 256), np.int64)
    count, errors = 0, {}
    for start in range(0, len(sample), 512):  # in chunks: bincount makes int64 copies
        if isinstance(split.images, np.ndarray):
            images = split.images[start : start + 512]
        else:
            _, images, unreadable = readable(split.images, sample[start : start + 512])
            errors |= unreadable
        count += len(images)
        for channel in range(channels):
            histogram[channel] += np.bincount(images[..., channel].reshape(-1), minlength=256)
    if not count:
        raise DataError(f"no training image can be read; the first: {next(iter(errors.values()))}")
    share = histogram / histogram.sum(1, keepdims=True)
    values = np.arange(256) / 255
    mean = share @ values
    std = np.sqrt((share * (values - mean[:, None]) ** 2).sum(1))
    std = np.where(std > 0, std, 1.0)
    return mean.astype(np.float32), std.astype(np.float32), count
