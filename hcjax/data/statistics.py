"""Mean and standard deviation of images, and reading what can be read of them. NumPy only."""

from __future__ import annotations

from typing import Any

import numpy as np

from hcjax.data import order
from hcjax.errors import DataError

STATISTICS_SAMPLE = 4096  # images read for mean and std when a set is streamed
_CHUNK = 512  # images at a time: sums make copies of 8 bytes a number


def readable(images, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict[int, str]]:
    """Reads images, and collects the errors of those that cannot be read.

    Args:
      images: of a split.
      rows: int64[n] positions in `images`.

    Returns:
      (readable rows int64[m], their images [m, H, W, C], other row -> message of its DataError).

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
    none = np.empty((0, *images.shape[1:]), images.dtype)
    return np.array(list(arrays), np.int64), np.concatenate([none, *arrays.values()]), errors


def statistics(images: Any) -> tuple[np.ndarray, np.ndarray, int]:
    """Computes mean and standard deviation of each channel, in units where a pixel is 0..1.

    The sums over bytes are exact, over the histogram of pixel values; those over floats are of
    float64. Of streamed images only a fixed sample of 4,096 (`STATISTICS_SAMPLE`) is read.
    Unreadable images are skipped here; the data report lists them, and training stops at the first.

    Args:
      images: of the training set, at least one: uint8, or float in 0..1, [N, H, W, C].

    Returns:
      mean float32[C], std float32[C] (1 where a channel is constant, so that division is safe), and
      the number of images used.

    Raises:
      DataError: if none of the images can be read.

    Example:
      >>> images = np.array([0, 255], np.uint8).reshape(2, 1, 1, 1)
      >>> mean, std, examples = statistics(images)
      >>> mean.tolist(), std.tolist(), examples
      ([0.5], [0.5], 2)
    """
    if images.dtype != np.uint8:
        return _of_floats(images)
    size, channels = len(images), images.shape[-1]
    sample = np.arange(size)
    if not isinstance(images, np.ndarray):
        sample = order.permutation(seed=0, stream=order.SAMPLE_STREAM, size=size)
        sample = np.sort(sample[:STATISTICS_SAMPLE])
    histogram = np.zeros((channels, 256), np.int64)
    count, errors = 0, {}
    for start in range(0, len(sample), _CHUNK):
        if isinstance(images, np.ndarray):
            chunk = images[start : start + _CHUNK]
        else:
            _, chunk, unreadable = readable(images, sample[start : start + _CHUNK])
            errors |= unreadable
        count += len(chunk)
        for channel in range(channels):
            histogram[channel] += np.bincount(chunk[..., channel].reshape(-1), minlength=256)
    if not count:
        first = f"; the first: {next(iter(errors.values()))}" if errors else ""
        raise DataError(f"no training image can be read{first}")
    share = histogram / histogram.sum(1, keepdims=True)
    values = np.arange(256) / 255
    mean = share @ values
    std = np.sqrt((share * (values - mean[:, None]) ** 2).sum(1))
    return mean.astype(np.float32), _safe(std), count


def _of_floats(images: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Computes the same of floats in memory, in two passes."""
    if not len(images):
        raise DataError("no training image can be read: there is none")
    chunks = [images[start : start + _CHUNK] for start in range(0, len(images), _CHUNK)]
    count = images[..., 0].size
    mean = sum(chunk.sum((0, 1, 2), dtype=np.float64) for chunk in chunks) / count
    squares = sum(((chunk - mean) ** 2).sum((0, 1, 2), dtype=np.float64) for chunk in chunks)
    constant = images.min((0, 1, 2)) == images.max((0, 1, 2))  # rounding may leave a little
    return (
        mean.astype(np.float32),
        _safe(np.where(constant, 0, np.sqrt(squares / count))),
        len(images),
    )


def _safe(std: np.ndarray) -> np.ndarray:
    """Returns float32[C], 1 in place of 0."""
    return np.where(std > 0, std, 1.0).astype(np.float32)
