"""Arrays of users as the project holds them: what range pixels have, and what labels are.

In: images and labels as people have them. Out: bytes, or floats in 0..1, and integers. What has no
clear meaning is refused; nothing is guessed from the values.

A pixel is 0..1 everywhere inside. Bytes stand for themselves / 255; floats are used as they are.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from hcjax.errors import DataError

_CHANNELS = (1, 2, 3, 4)  # an axis of this size beside larger ones is that of the channels


def pixels(images: Any, where: str = "images") -> np.ndarray:
    """Converts pixels to the two types that batches have.

    uint8 stays. Floats of any width must be in 0..1 and become float32, as they are. False and True
    become 0 and 255. Other integers must be in 0..255 and become uint8.

    Args:
      images: array of any shape, or nested lists.
      where: for the message.

    Returns:
      uint8 or float32 array of the same shape; not copied if it has that type already.

    Raises:
      DataError: if values are NaN or out of range, or no numbers.

    Example:
      >>> pixels([0.0, 0.5]).dtype, pixels(np.array([0, 255])).tolist(), pixels([True]).tolist()
      (dtype('float32'), [0, 255], [255])
    """
    images = _array(images, where)
    kind = "f" if images.dtype.name == "bfloat16" else images.dtype.kind  # NumPy says "V"
    if images.dtype == np.uint8:
        return images
    if kind == "b":
        return images.astype(np.uint8) * 255
    if kind not in "iuf":
        raise DataError(
            f"{where}: expected pixels as numbers, uint8 in 0..255 or floats in 0..1, found "
            f"{images.dtype}"
        )
    if kind == "f":
        images = images.astype(np.float32, copy=False)
    if images.size:
        _check_range(images, 1 if kind == "f" else 255, where)
    return images if kind == "f" else images.astype(np.uint8)


def images(values: Any, where: str = "images") -> Any:
    """Converts images to uint8 or float32 [N, H, W, C].

    Args:
      values: array [N, H, W, C] or, of grey images, [N, H, W], see `pixels`; or an object that
        reads uint8 images on demand, which is returned as it is.
      where: for the message.

    Raises:
      DataError: as `pixels`, or if the shape is that of no images, or has the channels first.

    Example:
      >>> images(np.zeros((5, 28, 28), np.uint8)).shape
      (5, 28, 28, 1)
    """
    lazy = not hasattr(values, "__array__") and hasattr(values, "shape")
    if not lazy:
        values = _array(values, where)
        values = values[..., None] if values.ndim == 3 else values
    shape = tuple(values.shape)
    found = f"{values.dtype}{list(shape)}"
    expected = f"{where}: expected images [N, H, W, C], or [N, H, W] of grey ones, found {found}"
    if len(shape) == 2:
        raise DataError(f"{expected}; give flat ones their shape, images.reshape(-1, H, W, C)")
    if len(shape) != 4:
        raise DataError(f"{expected}; one image is images[None]")
    if shape[3] > 4 and shape[1] in _CHANNELS:
        raise DataError(
            f"{where}: images {list(shape)} look like [N, C, H, W], channels first; give "
            "[N, H, W, C], images.transpose(0, 2, 3, 1)"
        )
    if 0 in shape[1:]:
        raise DataError(f"{expected}, which has no pixels")
    if not lazy:
        return pixels(values, where)
    if values.dtype != np.uint8:
        raise DataError(f"{where}: images that are read on demand must be uint8, found {found}")
    return values


def labels(values: Any, where: str = "labels") -> np.ndarray:
    """Converts labels to integers [N]; their type stays.

    Args:
      values: integers [N] or [N, 1], an array or a list.
      where: for the message.

    Raises:
      DataError: if they are floats, one-hot rows, text or of another shape.

    Example:
      >>> labels([[2], [0]]).tolist()
      [2, 0]
    """
    values = _array(values, where)
    found = f"{values.dtype}{list(values.shape)}"
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim == 2:
        raise DataError(
            f"{where}: expected labels int[N], found {found}, like one-hot rows; give "
            "labels.argmax(1), and soft targets by an augmentation or a teacher"
        )
    if values.ndim != 1 or (values.dtype.kind not in "iu" and values.size):
        advice = {
            "f": "; give labels.astype(int) if these are whole numbers",
            "b": "; give labels.astype(int)",
        }.get(values.dtype.kind, "")
        if values.dtype.kind in "UOS":
            advice = (
                "; number them: class_names, labels = numpy.unique(labels, return_inverse=True)"
            )
        raise DataError(f"{where}: expected labels int[N], found {found}{advice}")
    # an empty list is one of floats; uint64 cannot be counted
    return values.astype(np.int32) if values.dtype.kind not in "i" else values


def examples(values: Any, where: str) -> Any:
    """Converts examples of any form to a tree of arrays [N, ...], as they are.

    Floats of any width become float32, integers of 64 bits int32; uint8 and other narrow integers
    and booleans stay. Nothing is scaled.

    Args:
      values: an array or a list; or a dict or a tuple of such trees.
      where: for the message.

    Raises:
      DataError: if an array holds no numbers, has no axis of examples or another count of them
        than the others, or numbers that are not finite or do not fit.

    Example:
      >>> examples({"tokens": [[1, 2], [3, 4]], "mask": np.ones((2, 2))}, "mine")["tokens"].dtype
      dtype('int32')
    """
    if isinstance(values, dict):
        found = {k: examples(v, f"{where}, {k}") for k, v in values.items()}
    elif isinstance(values, tuple):
        found = tuple(examples(v, f"{where}, {i}") for i, v in enumerate(values))
    else:
        return _numbers(_array(values, where), where)
    counts = {len(x) for x in jax.tree.leaves(found)}
    if len(counts) != 1:
        raise DataError(
            f"{where}: expected arrays of as many examples, found {sorted(counts) or 'none'}"
        )
    return found


def _numbers(values: np.ndarray, where: str) -> np.ndarray:
    found = f"{values.dtype}{list(values.shape)}"
    kind = "f" if values.dtype.name == "bfloat16" else values.dtype.kind
    if kind not in "iufb" or not values.ndim:
        advice = "; number the words or classes: numpy.unique(x, return_inverse=True)"
        raise DataError(
            f"{where}: expected an array of numbers [N, ...], found {found}"
            + (advice if kind in "UOS" else "")
        )
    if kind == "f":
        bad = np.flatnonzero(~np.isfinite(values).all(tuple(range(1, values.ndim))))
        if len(bad):
            raise DataError(
                f"{where}: expected finite numbers, found NaN or infinity in {len(bad)} examples, "
                f"the first [{bad[0]}]"
            )
        return values.astype(np.float32, copy=False)
    if values.dtype.itemsize < 8 and values.dtype != np.uint32:
        return values
    limits = np.iinfo(np.int32)
    if values.size and not limits.min <= values.min() <= values.max() <= limits.max:
        raise DataError(
            f"{where}: expected integers that int32 holds, found {values.min()} to {values.max()}"
        )
    return values.astype(np.int32)


def _array(values: Any, where: str) -> np.ndarray:
    """Converts to an array; rows of several lengths and what holds no numbers are named."""
    try:
        return np.asarray(values)
    except (ValueError, TypeError) as error:
        raise DataError(f"{where}: expected one array of equal rows: {error}") from error


def _check_range(values: np.ndarray, highest: int, where: str) -> None:
    """Raises DataError, with what to do, unless numbers are in 0..highest."""
    low, high = values.min(), values.max()  # NaN if any is
    if 0 <= low <= high <= highest:
        return
    what = f"{values.dtype} pixels in 0..{highest}"
    if not np.isfinite(low) or not np.isfinite(high):
        bad = np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(1))
        raise DataError(
            f"{where}: expected finite numbers, found NaN or infinity in {len(bad)} images, the "
            f"first images[{bad[0]}]"
        )
    advice = "shift and scale them to 0..1; `mean` and `std` of a Dataset normalise them after that"
    if highest == 255:
        advice = "give floats in 0..1, of 16 bits images.astype('float32') / 65535"
    elif low >= 0 and high <= 255:
        advice = "if 255 is white give images / 255, or images.astype('uint8') if they are whole"
    elif low >= -1 and high <= 1:
        advice = "if -1 is black give (images + 1) / 2"
    raise DataError(f"{where}: expected {what}, found {low:g} to {high:g}; {advice}")
