"""Source `folder`: image files, with one sub-folder per class.

In: a path. Out: `Parts` with lazy images, which `load` reads into memory if they fit.
"""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np

from hcjax.data.dataset import LazyImages, Parts, Split
from hcjax.data.images import SUFFIXES, read_image, read_shape, size_pair
from hcjax.errors import DataError

PART_NAMES = {  # in lower case
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid"),
    "test": ("test", "testing"),
}
# what operating systems leave behind, in lower case, beside hidden files
_LITTER = {
    "__macosx",
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "icon\r",
    "$recycle.bin",
    "@eadir",
}


def load(path: str | Path, *, image_size=None, channels: int | None = None) -> Parts:
    """Reads the splits in a folder of image files: PNG, JPEG, WebP, BMP, GIF, TIFF.

    Either `path/<class>/<file>` or, with ready parts, `path/train/<class>/<file>` and the same
    under `val` (or `valid`, `validation`) and `test`, where there are any; also `Training`,
    `Testing`, in upper or lower case. Classes are the sub-folders of train in alphabetical order.
    Hidden files and what operating systems leave behind (`Thumbs.db`, `__MACOSX`) are skipped.

    Args:
      path: the folder.
      image_size: pixels, H = W or (H, W), that every image is fitted to (see `read_image`); None:
        all images have one size already.
      channels: 1 or 3; None: 3 if any image has colour.

    Returns:
      Parts with `LazyImages`.

    Raises:
      DataError: if the folder, a class or every class is empty, a file is no image, a later part
        has a class that train has not, it is not clear whether a folder is a part or a class, or,
        without `image_size`, sizes differ.
    """
    root = Path(path)
    if not root.is_dir():
        raise DataError(f"{root}: expected a folder of images, found no such folder")
    folders = parts_of(root)
    count = sum(entry.is_dir() for entry in visible(folders["train"]))
    if count < 2:
        raise DataError(
            f"{folders['train']}: expected one sub-folder per class, at least 2, found {count}; "
            "also legal: train, val and test folders with classes inside"
        )
    class_names = tuple(classes_of(folders["train"]))
    listed = {part: _files(f, class_names) for part, f in folders.items() if f is not None}
    image_shape = _image_shape(listed, size_pair(image_size), channels)

    def split(files: list[Path], labels: list[int]) -> Split:
        images = LazyImages(
            lambda row: read_image(files[row], image_shape), np.arange(len(files)), image_shape
        )
        return Split(images, np.array(labels, np.int32))

    return Parts(class_names, **{part: split(*files) for part, files in listed.items()})


def parts_of(root: Path) -> dict[str, Path | None]:
    """Finds the folder of each split; without any, the root is that of train."""
    folders: dict[str, Path | None] = dict.fromkeys(PART_NAMES)
    beside = []
    for entry in visible(root):
        if not entry.is_dir():
            continue
        part = next((p for p, names in PART_NAMES.items() if entry.name.lower() in names), None)
        if part is None:
            beside.append(entry)
        elif folders[part] is not None:
            raise DataError(
                f"{root}: expected one folder of the {part} part, found {folders[part].name} and "
                f"{entry.name}"
            )
        else:
            folders[part] = entry
    found = [folder for folder in folders.values() if folder is not None]
    if not found:
        return {**folders, "train": root}
    train = folders["train"]
    if train is None or not any(p.is_dir() for p in visible(train)):
        classes = ", ".join(p.name for p in beside[:3]) or "no folder of a class"
        raise DataError(
            f"{root}: expected a folder train with one sub-folder per class, found "
            f"{', '.join(p.name for p in found)} beside {classes}; a class may have the name "
            f"{found[0].name} inside train/: put all classes there"
        )
    return folders


def classes_of(folder: Path) -> dict[str, Path]:
    """Lists the classes of a split, name -> folder, in order.

    Names are composed (NFC): macOS writes an accent as a character of its own.
    """
    classes: dict[str, Path] = {}
    for entry in visible(folder):
        if not entry.is_dir():
            raise DataError(f"{entry}: expected only class folders here, found a file")
        name = unicodedata.normalize("NFC", entry.name)
        if name in classes:
            raise DataError(
                f"{entry}: expected a name of its own for each class, found '{name}' twice, "
                "composed and decomposed"
            )
        classes[name] = entry
    return dict(sorted(classes.items()))


def visible(folder: Path) -> list[Path]:
    """Lists the entries of a folder in order, without hidden files and litter."""
    return sorted(p for p in folder.iterdir() if p.name[0] != "." and p.name.lower() not in _LITTER)


def _files(folder: Path, class_names: tuple[str, ...]) -> tuple[list[Path], list[int]]:
    """Lists the image files of one split and their labels."""
    files, labels = [], []
    for name, entry in classes_of(folder).items():
        if name not in class_names:
            raise DataError(
                f"{entry}: expected a class of the training part ({', '.join(class_names)}), "
                f"found '{name}'"
            )
        images = visible(entry)
        for file in images:
            if file.is_dir():
                raise DataError(f"{file}: expected an image ({', '.join(SUFFIXES)}), not a folder")
            if file.suffix.lower() not in SUFFIXES:
                raise DataError(f"{file}: expected an image ({', '.join(SUFFIXES)})")
        if not images:
            raise DataError(f"{entry}: expected images of class '{name}', found none")
        files += images
        labels += [class_names.index(name)] * len(images)
    return files, labels


def _image_shape(listed: dict, size: tuple[int, int] | None, channels: int | None) -> tuple:
    """Returns (H, W, C) of all images; without a stated size, checks every header.

    With one, a file that cannot be read says nothing of colour, and is named when it is read.
    """
    files = [file for part in listed.values() for file in part[0]]
    first, most, unreadable = None, channels or 0, None
    for file in files:
        if size is not None and (channels or most == 3):
            break  # one image of colour makes all of them colour
        try:
            shape = read_shape(file)
        except DataError as error:
            if size is None:
                raise
            unreadable = unreadable or error
            continue
        most = channels or max(most, shape[2])
        first = first or (file, shape[:2])
        if size is None and shape[:2] != first[1]:
            raise DataError(
                f"{file}: {shape[0]} x {shape[1]} pixels, expected {first[1][0]} x {first[1][1]} "
                f"as in {first[0]}; state an image_size to fit them all to"
            )
    if not most:
        raise unreadable
    return (*(size or first[1]), most)
