"""Source `tfds`: any image classification set of TensorFlow Datasets, read without TensorFlow.

In: a name and, optionally, the `data_dir` where it is prepared, on disk or on `gs://`. Out:
`Parts`. Records are ArrayRecord files, read in any order through `tfds.data_source`; images are
decoded by Pillow when they are indexed.

TensorFlow Datasets *reads* without TensorFlow, but most sets need TensorFlow to be *prepared*
(downloaded and rewritten as ArrayRecord). That happens in a process of its own, so that no run of
hcjax imports TensorFlow, and only where TensorFlow is installed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from hcjax.core import optional
from hcjax.data.dataset import LazyImages, Parts, Split
from hcjax.data.images import read_image, size_pair
from hcjax.errors import ConfigError, DataError

_NO_NAME = "source tfds needs a name, e.g. data.name=cifar10"
_PREPARE = """
import sys, tensorflow_datasets as tfds
name, data_dir = sys.argv[1:]
tfds.builder(name, data_dir=data_dir or None, file_format="array_record").download_and_prepare()
"""


def load(
    name: str,
    path: str | None = None,
    *,
    image_size=None,
    channels: int | None = None,
    memory_limit_bytes: int = 4 * 2**30,
) -> Parts:
    """Reads the splits of a set of TensorFlow Datasets.

    Args:
      name: e.g. "cifar10", "svhn_cropped", "emnist/balanced", "imagenet2012".
      path: the `data_dir` that holds it, a folder or `gs://...` (needs the extra `gcs`); None:
        TFDS's own, ~/tensorflow_datasets.
      image_size: pixels, H = W or (H, W), that every image is fitted to (see `read_image`); needed
        where images differ in size.
      channels: 1 or 3; None: as in the set.
      memory_limit_bytes: a larger set (decoded) is streamed. Its labels are read once, which
        takes as long as reading it, and kept in ~/.cache/hcjax.

    Returns:
      Parts with `LazyImages`. A test part without labels (ImageNet's) is left out.

    Raises:
      DependencyError: if TensorFlow Datasets, or gcsfs for gs://, is not installed.
      DataError: if the set is unknown, not there and not to be had, not an image classification
        set, or has images of several sizes and no `image_size` is given.
    """
    if not name:
        raise ConfigError(_NO_NAME)
    tfds = _tfds()
    if (path or "").startswith("gs://"):
        optional.require("gcsfs", extra="gcs", what=f"source tfds, to read {path},")
    builder = _builder(tfds, name, path)
    image_key, label_key = _keys(tfds, builder, name)
    image_shape = _image_shape(builder, image_key, name, image_size, channels)
    num_examples = {part: split.num_examples for part, split in builder.info.splits.items()}
    if not num_examples.get("train"):
        raise DataError(f"{name}: expected a split 'train', found {list(num_examples)}")
    in_memory = sum(num_examples.values()) * np.prod(image_shape) <= memory_limit_bytes
    class_names = tuple(builder.info.features[label_key].names)
    splits = {}
    for part in ("train", "validation", "test"):
        if not num_examples.get(part):
            continue
        where = f"{name} ({part})"
        try:
            source = tfds.data_source(
                name,
                split=part,
                data_dir=path,
                download=False,
                decoders={image_key: tfds.decode.SkipDecoding()},
            )
            if source[0][label_key] < 0:
                continue
        except Exception as error:  # damaged files, or another format: readers raise anything
            raise DataError(f"{where}: cannot be read from {builder.data_path}: {error}") from error
        records = source.__getitems__(range(len(source))) if in_memory else source
        if in_memory:
            labels = np.array([record[label_key] for record in records], np.int32)
        else:
            labels = _cached_labels(records, label_key, builder.info.splits[part].filepaths)
        splits[part] = _split(records, image_key, image_shape, labels, class_names, where)
    return Parts(class_names, **splits)


def describe(
    name: str, path: str | None = None, *, image_size=None, channels: int | None = None, **_: object
) -> tuple[tuple[int, int, int], int]:
    """Returns ((H, W, C), number of classes) of a set, which need not be prepared anywhere.

    TFDS's own code says both for most sets, and a prepared set for all.

    Args:
      name, path, image_size, channels: as of `load`.

    Raises:
      DataError: as `load`, but not because the set is not prepared.

    Example:
      >>> describe("cifar10"), describe("imagenet2012", image_size=224)
      (((32, 32, 3), 10), ((224, 224, 3), 1000))
    """
    if not name:
        raise ConfigError(_NO_NAME)
    tfds = _tfds()
    local = None if "://" in (path or "") else path
    try:
        builder = tfds.builder(name, data_dir=local)  # TFDS's own sets need no file, and no bucket
    except Exception:
        builder = _registered(tfds, name, path)
    image_key, label_key = _keys(tfds, builder, name)
    num_classes = builder.info.features[label_key].num_classes
    if num_classes is None:
        raise DataError(f"{name}: how many classes there are is known only once it is prepared")
    return _image_shape(builder, image_key, name, image_size, channels), num_classes


def _tfds():
    """Returns the package, or says what to install."""
    return optional.module("tensorflow_datasets", extra="tfds", what="source tfds")


def _registered(tfds, name: str, path: str | None):
    """Returns the builder of a set that may or may not be prepared."""
    try:
        return tfds.builder(name, data_dir=path)
    except Exception as error:  # unknown name or config, no gcsfs, no such bucket
        reason = str(error).split("\n")[0][:300].rstrip(".")
        place = path or "~/tensorflow_datasets"
        raise DataError(f"no TFDS set '{name}' in {place}: {reason}. {_ways_out(name)}") from error


def _ways_out(name: str) -> str:
    """Returns what can be done where a set is not there."""
    return (
        "Ways out: name a folder or gs:// bucket where it is prepared (data.path=DATA_DIR); or "
        "prepare it once where TensorFlow is installed: pip install tensorflow-cpu "
        f"tensorflow-datasets && tfds build {name} --file_format=array_record --data_dir=DATA_DIR; "
        "or use local files: data.source=idx, folder or npz"
    )


def _image_shape(builder, image_key: str, name: str, image_size, channels: int | None) -> tuple:
    """Returns (H, W, C) of the images that a set's are fitted to."""
    stored = builder.info.features[image_key].shape
    size = size_pair(image_size) or stored[:2]
    if None in size:
        raise DataError(f"{name}: images differ in size; state an image_size to fit them to")
    return (*size, channels or stored[2] or 3)


def _builder(tfds, name: str, path: str | None):
    """Returns the builder of a prepared set; prepares the set first where that is possible."""
    place, ways_out = path or "~/tensorflow_datasets", _ways_out(name)
    builder = _registered(tfds, name, path)
    if builder.info.splits:
        return builder
    if importlib.util.find_spec("tensorflow") is None:
        raise DataError(
            f"TFDS set '{name}' is not prepared in {place}, and preparing it needs TensorFlow, "
            f"which is not installed here (hcjax reads sets without it). {ways_out}"
        )
    command = [sys.executable, "-c", _PREPARE, name, path or ""]
    if subprocess.run(command, check=False).returncode:
        raise DataError(f"TFDS could not download or prepare '{name}' (see above). {ways_out}")
    return tfds.builder(name, data_dir=path)


def _keys(tfds, builder, name: str) -> tuple[str, str]:
    """Returns the names of the image and the label among the set's features."""
    features, keys = builder.info.features, builder.info.supervised_keys or ("image", "label")
    expected = (tfds.features.Image, tfds.features.ClassLabel)
    for key, kind in zip(keys, expected, strict=False):
        if key not in features or not isinstance(features[key], kind):
            raise DataError(
                f"{name}: expected an image classification set (features Image and ClassLabel), "
                f"found {dict(features.items())}"
            )
    return keys[0], keys[1]


def _split(records, key: str, image_shape, labels: np.ndarray, class_names, where: str) -> Split:
    """Makes a split of encoded records that are decoded when indexed."""
    wrong = np.flatnonzero((labels < 0) | (labels >= len(class_names)))
    if len(wrong):
        raise DataError(
            f"{where}: label of example {wrong[0]} is {labels[wrong[0]]}, expected 0 to "
            f"{len(class_names) - 1}"
        )

    def read(row: int) -> np.ndarray:
        return read_image(records[row][key], image_shape, where=f"{where}, example {row}")

    return Split(LazyImages(read, np.arange(len(labels)), image_shape), labels)


def _cached_labels(records, key: str, files) -> np.ndarray:
    """Reads all labels of a streamed split, cached on disk until its files change."""
    state = [(str(file), stat.length, stat.mtime) for file in files for stat in [file.stat()]]
    digest = hashlib.sha256(repr(state).encode()).hexdigest()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "hcjax")
    file, size = cache / f"labels-{digest[:32]}.npy", len(records)
    try:
        labels = np.load(file)
        if (labels.dtype, labels.shape) == (np.int32, (size,)):
            return labels
    except Exception:  # missing or damaged: read the labels again
        pass
    labels = np.empty(size, np.int32)
    for start in range(0, size, 256):
        rows = range(start, min(start + 256, size))
        labels[start : start + 256] = [record[key] for record in records.__getitems__(rows)]
    cache.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(f".{os.getpid()}.npy")
    np.save(part, labels)
    part.replace(file)  # atomic, also if another process writes it
    return labels
