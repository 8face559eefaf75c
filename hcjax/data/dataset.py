"""Types of datasets, shared by sources, batches and reports; their arrays are NumPy's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from hcjax.core import brief
from hcjax.data import arrays
from hcjax.data.statistics import statistics
from hcjax.errors import DataError, unknown_name
from hcjax.graph.interface import Leaf, describe

PARTS = ("train", "validation", "test")
FORMS = ("labelled images", "images", "arrays")
_NOUNS = {
    FORMS[0]: {"inputs": "images", "targets": "labels"},
    FORMS[1]: {"inputs": "images", "targets": "targets"},
}


class Split(NamedTuple):
    """Examples: what a network gets, and what it should give.

    inputs: images, uint8[N, H, W, C] array, or float32 in 0..1, which is used as it is; or an
      object with `shape`, `dtype`, `__len__` and `__getitem__(int64[n]) -> uint8[n, H, W, C]` that
      reads on demand (`LazyImages`). Or a tree of arrays [N, ...].
    targets: labels, int32[N], each in [0, K). Or a tree of arrays [N, ...].
    """

    inputs: Any
    targets: Any

    def __repr__(self) -> str:
        return f"Split({brief.value(self.inputs)}, {brief.value(self.targets)})"

    @property
    def size(self) -> int:
        """Number of examples."""
        return len(jax.tree.leaves(self.targets)[0])

    @property
    def images(self) -> Any:
        """The inputs, where they are images."""
        return self.inputs

    @property
    def labels(self) -> np.ndarray:
        """The targets, where they are labels."""
        return self.targets


class Parts(NamedTuple):
    """The ready-made splits of a source; None where it has none.

    form: of the Dataset. about: what is known of it, for JSON. finish: `(training part, about or
    None) -> (function that finishes a part, about)`, for what depends on the training examples,
    e.g. a vocabulary; a given about, of another training, is taken as it is.
    """

    class_names: tuple[str, ...]
    train: Split
    validation: Split | None = None
    test: Split | None = None
    form: str = FORMS[0]
    about: dict | None = None
    finish: Callable | None = None

    __repr__ = brief.record


@dataclass(frozen=True, repr=False)
class Dataset:
    """Examples in three splits; of images by hand, `Dataset(train=(images, labels))` is enough.

    name: for people and reports.
    class_names: K names; label k is `class_names[k]`. By default "0", "1", ... up to the highest
      label of any split.
    train, validation, test: disjoint splits, or pairs (images, labels) as `arrays.images` and
      `arrays.labels` take them; all but train may be empty, and are by default.
    mean, std: float32[C] in units where a pixel is 0..1, by default those of the training images.
      Networks get (image - mean) / std.
    statistics_examples: number of training images behind `mean` and `std`: all, unless the set is
      streamed.
    form: "labelled images"; "images" with targets of any shape, e.g. a mask for each; or "arrays",
      trees of arrays that networks get as they are: mean and std are then None. Only labels have
      class names by default.
    about: what else a user of the network must know, for JSON, e.g. a vocabulary.

    Raises:
      DataError: if images or labels cannot be used, with what is wrong with them.

    Example:
      >>> x, y = np.array([[[0.0]], [[1.0]]]), [0, 1]
      >>> data = Dataset(train=(x, y))
      >>> data.image_shape, data.class_names, data.mean.tolist(), len(data.test.labels)
      ((1, 1, 1), ('0', '1'), [0.5], 0)
    """

    name: str = "arrays"
    class_names: tuple[str, ...] | None = None
    train: Split | None = None
    validation: Split | None = None
    test: Split | None = None
    mean: np.ndarray | None = None
    std: np.ndarray | None = None
    statistics_examples: int | None = None
    form: str = FORMS[0]
    about: dict | None = None

    def __post_init__(self):
        if self.train is None:
            raise DataError(f"{self.name}: a training part is needed: train=(images, labels)")
        if self.form not in FORMS:
            raise DataError(f"{self.name}: {unknown_name('form', str(self.form), FORMS)}")
        given = {part: getattr(self, part) for part in PARTS}
        splits = {
            k: split_of(x, f"{self.name}, {k}", self.form)
            for k, x in given.items()
            if x is not None
        }
        train = splits["train"]
        splits = {part: splits.get(part) or take(train, np.arange(0)) for part in PARTS}
        for part, split in splits.items():
            for what in ("inputs", "targets"):
                ours, theirs = (shapes_of(getattr(s, what)) for s in (split, train))
                if not _fit(ours, theirs):
                    noun = _NOUNS.get(self.form, {}).get(what, what)
                    raise DataError(
                        f"{self.name}, {part}: {noun} are {_described(ours)}, those of train "
                        f"{_described(theirs)}"
                    )
        names = self._names(splits)
        for part, split in splits.items():
            if are_labels(split.targets) and (names or self.form == FORMS[0]):
                _check_labels(f"{self.name}, {part}", split.targets, len(names))
        facts = {"class_names": names}
        if self.form != "arrays":
            mean, std, count = self.mean, self.std, self.statistics_examples
            if mean is None or std is None:
                ours = statistics(train.images)
                mean, std = (ours[0] if mean is None else mean), (ours[1] if std is None else std)
                count = ours[2] if count is None else count
            channels = train.images.shape[3]
            facts |= {
                "mean": _per_channel(f"{self.name}, mean", mean, channels),
                "std": _per_channel(f"{self.name}, std", std, channels),
                "statistics_examples": train.size if count is None else count,
            }
        elif self.mean is not None or self.std is not None:
            raise DataError(f"{self.name}: arrays are used as they are, and have no mean and std")
        for key, value in (splits | facts).items():
            object.__setattr__(self, key, value)  # the class is frozen

    def _names(self, splits: dict[str, Split]) -> tuple[str, ...]:
        """Returns the names of the classes; () without."""
        if self.class_names is not None:
            return tuple(map(str, self.class_names))
        if not are_labels(splits["train"].targets):
            return ()
        highest = max((s.targets.max() for s in splits.values() if s.size), default=-1)
        return tuple(str(k) for k in range(int(highest) + 1))

    def __repr__(self) -> str:
        sizes = ", ".join(f"{part} {getattr(self, part).size:,}" for part in PARTS)
        if self.form != FORMS[0]:
            inputs, targets = (_described(shapes_of(x)) for x in self.train)
            classes = f", {self.num_classes} classes" if self.class_names else ""
            return f"Dataset {self.name}: {inputs} to {targets}{classes}; {sizes}"
        shape = " x ".join(map(str, self.image_shape))
        numbers = [" ".join(f"{x:.4g}" for x in np.ravel(v)) for v in (self.mean, self.std)]
        return (
            f"Dataset {self.name}: {self.num_classes} classes, {shape} {self.train.images.dtype}; "
            f"{sizes}; mean {numbers[0]}, std {numbers[1]}"
        )

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return len(self.class_names)

    @property
    def num_outputs(self) -> int:
        """Numbers that a plain network gives: K, or of targets that are no classes the last axis.

        Raises:
          DataError: if the targets are several arrays.
        """
        if self.class_names:
            return self.num_classes
        if not isinstance(self.train.targets, np.ndarray):
            raise DataError(
                f"{self.name}: targets {_described(shapes_of(self.train.targets))} are several "
                "arrays; a network by name gives one: build it, see hcjax.fit"
            )
        return 1 if self.train.targets.ndim == 1 else self.train.targets.shape[-1]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one example's input: (H, W, C) of images.

        Raises:
          DataError: if the inputs are several arrays.
        """
        shapes = shapes_of(self.train.inputs)
        if not isinstance(shapes, Leaf):
            raise DataError(
                f"{self.name}: inputs {_described(shapes)} are several arrays; a network by name "
                "takes one: choose it, e.g. only text or only numbers of a table"
            )
        return shapes.shape

    @property
    def facts(self) -> dict[str, Any]:
        """What a run must know to use its network: JSON can hold it."""
        if self.form != "arrays":
            facts = {k: getattr(self, k) for k in ("class_names", "image_shape", "mean", "std")}
        else:
            shapes = shapes_of(self.train.inputs)
            facts = {"class_names": self.class_names, "inputs": describe((shapes,))}
            facts |= {"about": self.about or {}}
            if isinstance(shapes, Leaf):
                facts |= {"input_shape": shapes.shape, "input_dtype": str(shapes.dtype)}
        if self.form != FORMS[0] and isinstance(self.train.targets, np.ndarray):
            facts["num_outputs"] = self.num_outputs
        return facts

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

    def __getitem__(self, index: np.ndarray | slice) -> np.ndarray:
        rows = self.rows[index]
        images = np.empty((len(rows), *self.shape[1:]), np.uint8)
        for i, row in enumerate(rows.tolist()):
            images[i] = self.read(row)
        return images

    def take(self, index: np.ndarray) -> LazyImages:
        """Selects the images at `index` without reading them."""
        return LazyImages(self.read, self.rows[index], self.shape[1:])


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

    def some(x):
        return x.take(index) if isinstance(x, LazyImages) else x[index]

    return Split(*(jax.tree.map(some, tree) for tree in split))


def split_of(pair: Any, where: str, form: str = FORMS[0]) -> Split:
    """Converts a pair (images, labels) to a split.

    Args:
      pair: a Split, a tuple or a list of two, see `arrays.images` and `arrays.labels`, or
        `arrays.examples` for those of other forms.
      where: for messages. form: see `Dataset`.

    Raises:
      DataError: if it is no pair, cannot be used, or has not one label for each image.

    Example:
      >>> split_of((np.zeros((2, 4, 4)), [0, 1]), "mine").images.shape
      (2, 4, 4, 1)
    """
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise DataError(f"{where}: expected a pair (images, labels), found {brief.value(pair)}")
    first, second = _NOUNS.get(form, {"inputs": "inputs", "targets": "targets"}).values()
    inputs = (arrays.examples if form == "arrays" else arrays.images)(pair[0], where)
    targets = (arrays.labels if form == FORMS[0] else arrays.examples)(pair[1], where)
    count, size = (len(jax.tree.leaves(x)[0]) for x in (inputs, targets))
    if count != size:
        raise DataError(f"{where}: {count:,} {first} have {size:,} {second}")
    return Split(inputs, targets)


def shapes_of(tree: Any) -> Any:
    """Returns a tree of `Leaf`, one for each array of examples."""
    return jax.tree.map(lambda x: Leaf(tuple(x.shape[1:]), np.dtype(x.dtype)), tree)


def _fit(ours: Any, theirs: Any) -> bool:
    """Returns whether trees of `Leaf` have one structure and shapes; dtypes may differ."""
    if jax.tree.structure(ours) != jax.tree.structure(theirs):
        return False
    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
    return all(a.shape == b.shape for a, b in pairs)


def _described(shapes: Any) -> str:
    if isinstance(shapes, Leaf):
        return f"{list(shapes.shape)}"
    return describe((shapes,))


def are_labels(targets: Any) -> bool:
    """Returns whether targets are one label for each example, int[N]."""
    return isinstance(targets, np.ndarray) and targets.ndim == 1 and targets.dtype.kind in "iu"


def _check_labels(where: str, labels: np.ndarray, classes: int) -> None:
    """Raises DataError unless every label is in [0, classes)."""
    if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        raise DataError(
            f"{where}: labels must be in [0, {classes}), the number of class_names, found "
            f"{labels.min()} to {labels.max()}"
        )


def _per_channel(where: str, given: Any, channels: int) -> np.ndarray:
    """Returns one number for each channel; raises DataError for others, or an illegal one."""
    value = given if isinstance(given, np.ndarray) else np.asarray(given, np.float32)
    if value.size == 1 and value.shape != (channels,):
        value = np.full(channels, value.reshape(()))
    legal = value.shape == (channels,) and np.isfinite(value).all()
    if not legal or (where.endswith("std") and not (value > 0).all()):
        rule = "> 0" if where.endswith("std") else "finite"
        raise DataError(
            f"{where}: expected {channels} numbers {rule}, one a channel, found "
            f"{brief.value(given)}"
        )
    if where.endswith("mean") and np.abs(value).max() > 1:
        raise DataError(
            f"{where}: expected it where a pixel is 0..1, found {value.tolist()}; of pixels in "
            "0..255 give mean / 255 and std / 255"
        )
    return value
