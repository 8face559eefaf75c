"""Source `npz`: one NumPy archive. In: a path. Out: `Parts`. NumPy only."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from hcjax.data.dataset import Parts, Split
from hcjax.data.sources.idx import check_parts
from hcjax.errors import DataError

# Names as in Keras's archives, as in MedMNIST's, and plain.
_KEYS = {
    "train": (("x_train", "y_train"), ("train_images", "train_labels"), ("images", "labels")),
    "validation": (("x_val", "y_val"), ("val_images", "val_labels")),
    "test": (("x_test", "y_test"), ("test_images", "test_labels")),
}


def load(path: str | Path) -> Parts:
    """Reads the splits in an `.npz` file.

    Arrays are named x_train, y_train, x_val, y_val, x_test, y_test; or train_images,
    train_labels, val_..., test_...; or just images, labels. Only the training ones must be there.
    An array `class_names` of strings names the classes; without it they are "0", "1", ....

    Args:
      path: the file. Images [N, H, W] or [N, H, W, C], uint8; or integers in 0..255; or floats in
        0..1, which are rounded to 255ths, as is what lies less than half a 255th outside. Labels:
        integers [N] or [N, 1].

    Returns:
      The parts; images uint8[N, H, W, C].

    Raises:
      DataError: if the file is damaged, an array is missing or of the wrong kind, values are NaN
        or out of range, counts or shapes differ, or a label is out of range.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
        single = isinstance(loaded, np.ndarray)
        if not single:
            with loaded as archive:
                arrays = {key: archive[key] for key in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, AttributeError) as error:
        raise DataError(f"{path}: expected an .npz archive of plain arrays: {error}") from error
    if single:
        raise DataError(
            f"{path}: expected an .npz archive, found a single array (.npy); write images and "
            "labels with numpy.savez(path, x_train=..., y_train=...)"
        )
    splits = {}
    for part, pairs in _KEYS.items():
        pair = next((p for p in pairs if p[0] in arrays or p[1] in arrays), None)
        if pair is None:
            splits[part] = None
            continue
        missing = [key for key in pair if key not in arrays]
        if missing:
            raise DataError(f"{path}: expected an array '{missing[0]}', found {list(arrays)}")
        splits[part] = Split(
            _images(arrays[pair[0]], f"{path}: {pair[0]}"),
            _labels(arrays[pair[1]], f"{path}: {pair[1]}"),
        )
    if splits["train"] is None:
        raise DataError(f"{path}: expected arrays x_train and y_train, found {list(arrays)}")
    names = arrays.get("class_names")
    if names is not None and (names.ndim != 1 or names.dtype.kind != "U"):
        raise DataError(
            f"{path}: expected class_names to be strings of the shape (K,), found "
            f"{names.dtype}{names.shape}"
        )
    class_names = None if names is None else tuple(names.tolist())
    return check_parts(splits, class_names=class_names, where=str(path))


def _images(images: np.ndarray, where: str) -> np.ndarray:
    """Converts images to uint8[N, H, W, C], or raises DataError."""
    if images.ndim not in (3, 4):
        raise DataError(
            f"{where}: expected the shape (N, H, W) or (N, H, W, C), found {images.shape}"
        )
    images = images if images.ndim == 4 else images[..., None]
    if images.dtype == np.uint8:
        return images
    if images.dtype.kind not in "iuf":
        raise DataError(f"{where}: expected uint8 or numbers, found {images.dtype}")
    if images.dtype.kind == "f":
        bad = np.flatnonzero(~np.isfinite(images).reshape(len(images), -1).all(1))
        if len(bad):
            raise DataError(
                f"{where}: expected finite numbers, found NaN or infinity in image {bad[0]} "
                f"({len(bad)} such images)"
            )
    floats = images.dtype.kind == "f"
    low, high = (images.min(), images.max()) if images.size else (0, 0)
    outside = 0.5 / 255 if floats else 0  # as a rounding error leaves it
    if not -outside <= low <= high <= (1 if floats else 255) + outside:
        cure = ""
        if floats and low >= 0 and high <= 255.5:
            cure = "; divide by 255, or save uint8"
        elif floats and low > -1.01 and high < 1.01:
            cure = "; if black is -1, save (x + 1) / 2"
        raise DataError(
            f"{where}: expected {images.dtype} values in 0..{1 if floats else 255}, found "
            f"{low:.9g}..{high:.9g}{cure}"
        )
    return np.clip(np.round(images * (255 if floats else 1)), 0, 255).astype(np.uint8)


def _labels(labels: np.ndarray, where: str) -> np.ndarray:
    """Converts labels to int32[N], or raises DataError."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        cure = {"f": ", .astype(int) if they are whole", "U": ", numpy.unique(..., "
                "return_inverse=True)[1], with class_names"}.get(labels.dtype.kind, "")  # fmt: skip
        if labels.ndim == 2 and labels.dtype.kind in "iufb":
            cure = ", .argmax(1) of one-hot rows"
        raise DataError(
            f"{where}: expected integers of the shape (N,){cure}, found "
            f"{labels.dtype}{labels.shape}"
        )
    if labels.size and not -(2**31) <= labels.min() <= labels.max() < 2**31:
        raise DataError(f"{where}: expected labels from 0, found {labels.min()}..{labels.max()}")
    return labels.astype(np.int32)
