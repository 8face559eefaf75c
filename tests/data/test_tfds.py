"""A real TFDS set, prepared on disk from arrays and read back as a downloaded one would be."""

import importlib.util
import io
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from hcjax import data
from hcjax.data.sources import tfds as source
from hcjax.errors import ConfigError, DataError, DependencyError

tfds = pytest.importorskip("tensorflow_datasets")

NAMES = ["cat", "dog", "emu"]
RNG = np.random.default_rng(0)
TRAIN = RNG.integers(0, 256, (30, 8, 6, 3), dtype=np.uint8)
TEST = RNG.integers(0, 256, (9, 8, 6, 3), dtype=np.uint8)


def png(image: np.ndarray) -> io.BytesIO:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    file.seek(0)
    return file


def prepare(data_dir, *, called, splits, image=None, label=None):
    """Writes a set as ArrayRecord files. `splits`: {split: (images, labels)}."""
    image = image or tfds.features.Image(shape=(8, 6, 3))
    label = label or tfds.features.ClassLabel(names=NAMES)

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = called
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = tfds.features.FeaturesDict({"inputs": image, "labels": label})
            return tfds.core.DatasetInfo(
                builder=self, features=features, supervised_keys=("inputs", "labels")
            )

        def _split_generators(self, dl_manager):
            del dl_manager  # nothing to download
            return {split: self._generate_examples(*found) for split, found in splits.items()}

        def _generate_examples(self, images, labels):
            for i, (x, y) in enumerate(zip(images, labels, strict=True)):
                yield i, {"inputs": png(x), "labels": y}

    Builder(data_dir=data_dir, file_format="array_record").download_and_prepare()


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("tfds"))
    labels = {"train": np.arange(30) % 3, "test": np.arange(9) % 3}
    prepare(
        path,
        called="tiny_pets",
        splits={"train": (TRAIN, labels["train"]), "test": (TEST, labels["test"])},
    )
    return path


def by_content(images, labels) -> set:
    return {(np.asarray(x).tobytes(), int(y)) for x, y in zip(images, labels, strict=True)}


def test_a_prepared_set_is_read(data_dir):
    parts = source.load("tiny_pets", data_dir)
    assert parts.class_names == tuple(NAMES)
    found = by_content(parts.train.images[np.arange(30)], parts.train.labels)
    assert found == by_content(TRAIN, np.arange(30) % 3)  # in another order: TFDS shuffles
    found = by_content(parts.test.images[np.arange(9)], parts.test.labels)
    assert found == by_content(TEST, np.arange(9) % 3)
    assert parts.validation is None


def test_a_streamed_set_gives_the_same_batches(data_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    arguments = {"name": "tiny_pets", "path": data_dir, "validation": 6}
    held = data.load("tfds", **arguments)
    first = data.load("tfds", **arguments, memory_limit_bytes=1000)
    again = data.load("tfds", **arguments, memory_limit_bytes=1000)  # labels from the cache
    assert len(list((tmp_path / "hcjax").glob("labels-*.npy"))) == 2
    assert isinstance(held.train.images, np.ndarray)
    assert isinstance(again.train.images, data.LazyImages)
    for streamed in (first, again):
        for a, b in zip(
            data.train_batches(held.train, seed=0, batch_size=8, start=1, stop=4),
            data.train_batches(streamed.train, seed=0, batch_size=8, start=1, stop=4),
            strict=True,
        ):
            np.testing.assert_array_equal(a["inputs"], b["inputs"])
            np.testing.assert_array_equal(a["labels"], b["labels"])


@pytest.fixture
def streamed(data_dir, tmp_path, monkeypatch):
    """A copy of the set, its label files, and how to load it streamed."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    copy = tmp_path / "copy"
    shutil.copytree(data_dir, copy)

    def load():
        return source.load("tiny_pets", str(copy), memory_limit_bytes=1000)

    load()
    return copy, sorted((tmp_path / "hcjax").glob("labels-*.npy")), load


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(file.read_bytes()[:-4]),
        lambda file: file.write_bytes(b"not an array"),
        lambda file: np.save(file, np.zeros(3, np.int32)),
    ],
)
def test_damaged_kept_labels_are_made_again(data_dir, streamed, damage):
    _, kept, load = streamed
    for file in kept:
        damage(file)
    expected = source.load("tiny_pets", data_dir)
    for _ in range(2):  # the second time from the mended files
        found = load()
        np.testing.assert_array_equal(found.train.labels, expected.train.labels)
        np.testing.assert_array_equal(found.test.labels, expected.test.labels)


def test_a_set_made_anew_in_its_place_gets_its_new_labels(streamed):
    copy, kept, load = streamed
    for file in kept:  # were these read, it would show
        np.save(file, np.zeros_like(np.load(file)))
    assert not load().train.labels.any()
    for file in copy.glob("tiny_pets/1.0.0/*array_record*"):
        os.utime(file, (1, 1))  # another time, the same names and sizes
    assert np.bincount(load().train.labels).tolist() == [10, 10, 10]


def test_tensorflow_is_never_imported(data_dir):
    code = f"""
import sys
from hcjax import data
found = data.load("tfds", name="tiny_pets", path={data_dir!r}, validation=3, memory_limit_bytes=9)
next(data.train_batches(found.train, seed=0, batch_size=4))
print(sorted(m for m in sys.modules if m.split(".")[0] in ("tensorflow", "keras", "torch")))
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_images_of_several_sizes_need_a_stated_one(tmp_path):
    mixed = [TRAIN[0], TRAIN[1, :5], TRAIN[2, :, :4]]
    image = tfds.features.Image(shape=(None, None, 3))
    prepare(tmp_path, called="mixed_pets", splits={"train": (mixed, [0, 1, 2])}, image=image)
    with pytest.raises(DataError, match="mixed_pets: images differ in size; state an image_size"):
        source.load("mixed_pets", str(tmp_path))
    parts = source.load("mixed_pets", str(tmp_path), image_size=4, channels=1)
    assert parts.train.images[np.arange(3)].shape == (3, 4, 4, 1)


def test_a_test_part_without_labels_is_left_out(tmp_path):
    label = tfds.features.ClassLabel(names=NAMES)
    splits = {
        "train": (TRAIN, np.arange(30) % 3),
        "validation": (TEST, np.arange(9) % 3),
        "test": (TEST, [-1] * 9),  # as in imagenet2012
    }
    prepare(tmp_path, called="net_pets", splits=splits, label=label)
    dataset = data.load("tfds", name="net_pets", path=str(tmp_path), validation=3)
    sizes = [len(s.labels) for s in (dataset.train, dataset.validation, dataset.test)]
    assert sizes == [27, 3, 9]
    assert by_content(*dataset.test) == by_content(TEST, np.arange(9) % 3)


def test_a_set_that_is_no_classification_is_refused(tmp_path):
    label = tfds.features.Scalar(dtype=np.int64)
    prepare(tmp_path, called="number_pets", splits={"train": (TRAIN[:2], [4, 5])}, label=label)
    with pytest.raises(DataError, match="number_pets: expected an image classification set"):
        source.load("number_pets", str(tmp_path))


def test_an_unknown_set_names_the_ways_out(tmp_path):
    with pytest.raises(DataError, match=r"no TFDS set 'no_such_set' in .*data\.path=DATA_DIR") as e:
        source.load("no_such_set", str(tmp_path))
    assert "data.source=idx, folder or npz" in str(e.value)
    assert ".." not in str(e.value)


@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is not None, reason="has TensorFlow")
def test_a_set_that_cannot_be_prepared_names_the_ways_out(tmp_path):
    with pytest.raises(
        DataError, match=r"'cifar10' is not prepared in .*needs TensorFlow"
    ) as error:
        source.load("cifar10", str(tmp_path))
    assert "tfds build cifar10 --file_format=array_record --data_dir=DATA_DIR" in str(error.value)


def test_a_failed_download_names_the_ways_out(tmp_path, monkeypatch):
    monkeypatch.setattr(source, "_PREPARE", "raise SystemExit('no network')")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)  # as with TensorFlow
    with pytest.raises(DataError, match=r"could not download or prepare 'cifar10'.*Ways out"):
        source.load("cifar10", str(tmp_path))


@pytest.mark.skipif(importlib.util.find_spec("gcsfs") is not None, reason="would use the network")
def test_a_bucket_without_gcsfs_says_what_to_install():
    with pytest.raises(DependencyError, match=r"gs://no-such-bucket, .*gcsfs.*'hcjax\[gcs\]'"):
        source.load("cifar10", "gs://no-such-bucket")


def test_a_damaged_record_file_is_named(data_dir, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(data_dir, copy)
    (file,) = copy.glob("tiny_pets/1.0.0/*train*")
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(DataError, match=r"tiny_pets \(train\): cannot be read from .*copy"):
        source.load("tiny_pets", str(copy))


def test_a_name_is_needed():
    with pytest.raises(ConfigError, match="needs a name"):
        data.load("tfds")
