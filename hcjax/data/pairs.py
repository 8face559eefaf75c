"""Datasets from pairs of arrays, as a notebook has them: what `fit` and `evaluate` take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hcjax.core import brief
from hcjax.data.dataset import PARTS, Dataset, Split
from hcjax.errors import DataError

_FORMS = (
    "(images, labels); ((images, labels), (test images, test labels)); three such pairs, of "
    "training, validation and test; or a mapping from these names to pairs"
)


def from_arrays(
    data: Any, *, name: str = "arrays", class_names: Sequence[str] | None = None
) -> Dataset:
    """Makes a Dataset of pairs (images, labels) whose pixels networks get as they are, in 0..1.

    Nothing is taken off and nothing divided by but what makes bytes 0..1: mean is 0 and std 1. So
    `apply(params, images)` of the same floats is what was trained. For images normalised by the
    training set's mean and std, give `Dataset(train=(images, labels))`.

    Args:
      data: (images, labels), ((images, labels), (test images, test labels)), three such pairs for
        training, validation and test, or a mapping of "train", "validation" and "test" to pairs.
        See `arrays.images` and `arrays.labels` for their types.
      name: for people and reports.
      class_names: K names; None for "0", "1", ... up to the highest label.

    Raises:
      DataError: if `data` has another form, or an image or label cannot be used.

    Example:
      >>> data = from_arrays((np.zeros((4, 8, 8, 1)), [0, 1, 2, 1]))
      >>> data.num_classes, data.mean.tolist(), data.std.tolist()
      (3, [0.0], [1.0])
    """
    if isinstance(data, Mapping):
        parts = dict(data)
        if "train" not in parts or not parts.keys() <= set(PARTS):
            raise DataError(f"data must be {_FORMS}; found a mapping with {list(parts)}")
    else:
        parts = dict(zip(_names(data), data if _is_nested(data) else [data], strict=True))
    channels = np.shape(parts["train"][0]) if isinstance(parts["train"], tuple | list) else ()
    channels = channels[3] if len(channels) == 4 else 1  # other shapes are refused by Dataset
    return Dataset(
        name=name,
        class_names=None if class_names is None else tuple(class_names),
        mean=np.zeros(channels, np.float32),
        std=np.ones(channels, np.float32),
        **parts,
    )


def as_dataset(data: Any) -> Dataset:
    """Returns a Dataset as it is, and anything else as `from_arrays` does.

    Args:
      data: Dataset, or what `from_arrays` takes.

    Raises:
      DataError: as `from_arrays`; for a Split, which says nothing of its dataset's mean and std.
    """
    if isinstance(data, Dataset):
        return data
    if isinstance(data, Split):
        raise DataError(
            "a Split does not say by which mean and std its images are normalised: give its "
            "Dataset (and evaluate's part=), Dataset(train=split), or a plain pair (images, "
            "labels), which is used as it is"
        )
    return from_arrays(data)


def is_pair(data: Any) -> bool:
    """Returns whether data is one pair (images, labels), neither a Dataset nor several pairs.

    Example:
      >>> is_pair(([[0.0]], [1])), is_pair((([[0.0]], [1]), ([[0.0]], [1])))
      (True, False)
    """
    return isinstance(data, tuple | list) and len(data) == 2 and not _is_nested(data)


def _is_nested(data: Any) -> bool:
    """Returns whether all items are pairs: tuples, which no array of images is."""
    return isinstance(data, tuple | list) and all(isinstance(x, tuple) for x in data)


def _names(data: Any) -> tuple[str, ...]:
    """Returns the part of each pair."""
    if is_pair(data):
        return ("train",)
    names = {1: ("train",), 2: ("train", "test"), 3: PARTS}
    if not _is_nested(data) or len(data) not in names:
        raise DataError(f"data must be a Dataset; {_FORMS}. Found {brief.value(data)}")
    return names[len(data)]
