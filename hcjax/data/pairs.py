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
    data: Any,
    targets: Any = None,
    *,
    validation: Any = None,
    test: Any = None,
    name: str = "arrays",
    class_names: Sequence[str] | None = None,
) -> Dataset:
    """Makes a Dataset of arrays that networks get as they are.

    From pairs (images, labels): pixels in 0..1. Nothing is taken off and nothing divided by but
    what makes bytes 0..1: mean is 0 and std 1. So `apply(params, images)` of the same floats is
    what was trained. For images normalised by the training set's mean and std, give
    `Dataset(train=(images, labels))`.

    From inputs and targets, two arguments: trees of arrays of any shape and dtype. Inputs are read
    as images if they are one array [N, H, W] or [N, H, W, C] of uint8, or of floats in 0..1 with 1,
    3 or 4 channels; else as they are. Targets are labels if they are integers [N]. The Dataset's
    `form` and its text say how they were read.

    Args:
      data: (images, labels), ((images, labels), (test images, test labels)), three such pairs for
        training, validation and test, or a mapping of "train", "validation" and "test" to pairs.
        See `arrays.images` and `arrays.labels` for their types. With `targets`, the inputs: an
        array [N, ...], or a dict or tuple of such trees.
      targets: an array [N, ...] or a tree of them; None where `data` are pairs.
      validation, test: pairs (inputs, targets), only beside `targets`.
      name: for people and reports.
      class_names: K names; None for "0", "1", ... up to the highest label.

    Raises:
      DataError: if `data` has another form, or an image or label cannot be used.

    Example:
      >>> data = from_arrays((np.zeros((4, 8, 8, 1)), [0, 1, 2, 1]))
      >>> data.num_classes, data.mean.tolist(), data.std.tolist()
      (3, [0.0], [1.0])
      >>> from_arrays({"tokens": np.zeros((4, 9), int)}, np.zeros((4, 2)), name="mine")
      Dataset mine: {'tokens': int32[N, 9]} to [2]; train 4, validation 0, test 0
    """
    if targets is not None:
        return _from_trees(data, targets, validation, test, name, class_names)
    if validation is not None or test is not None:
        raise DataError("validation= and test= go with targets: from_arrays(inputs, targets, ...)")
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


def _from_trees(inputs, targets, validation, test, name, class_names) -> Dataset:
    images, labels = _are_images(inputs), np.ndim(targets) == 1 if _is_array(targets) else False
    labels = labels and np.asarray(targets).dtype.kind in "iu"
    form = "arrays" if not images else "labelled images" if labels else "images"
    parts = {"train": (inputs, targets), "validation": validation, "test": test}
    normal = {}
    if images:
        channels = np.shape(inputs)[3] if np.ndim(inputs) == 4 else 1
        normal = {"mean": np.zeros(channels, np.float32), "std": np.ones(channels, np.float32)}
    names = None if class_names is None else tuple(class_names)
    return Dataset(name=name, class_names=names, form=form, **parts, **normal)


def _is_array(x: Any) -> bool:
    return not isinstance(x, dict | tuple)


def _are_images(x: Any) -> bool:
    """Returns whether inputs are images, as `from_arrays` says."""
    if not _is_array(x):
        return False
    x = np.asarray(x)
    if x.dtype in (np.uint8, bool):
        return x.ndim in (3, 4)
    channels = x.ndim == 4 and x.shape[3] in (1, 3, 4)
    return channels and x.dtype.kind == "f" and x.size > 0 and 0 <= x.min() <= x.max() <= 1


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
