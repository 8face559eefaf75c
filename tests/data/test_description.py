"""What is known of datasets that are not there, and of those that are."""

import numpy as np
import pytest

from hcjax import data
from hcjax.data import SOURCES, Parts, Split, describe
from hcjax.errors import ConfigError, DataError
from tests.tiny import npz


def test_the_source_at_hand_is_read(tmp_path):
    path = str(npz(tmp_path / "mnist.npz", channels=3))
    found = describe("npz", path=path)  # what is there counts, whatever it is called
    assert found[:2] == ((8, 8, 3), 3) and "at hand" in found.origin
    loaded = data.load("npz", path=path, image_size=(6, 5), channels=1, validation=8)
    fitted = describe("npz", path=path, image_size=(6, 5), channels=1)
    assert fitted[:2] == (loaded.image_shape, loaded.num_classes) == ((6, 5, 1), 3)


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("cifar10", {}, ((32, 32, 3), 10)),
        ("cifar10", {"path": "gs://no-such-bucket/tfds"}, ((32, 32, 3), 10)),
        ("emnist/balanced", {"path": "/nowhere"}, ((28, 28, 1), 47)),
        ("imagenet2012", {"image_size": (224, 200), "channels": 1}, ((224, 200, 1), 1000)),
        ("food101", {"image_size": 64}, ((64, 64, 3), 101)),
    ],
)
def test_tfds_describes_its_own_sets_without_files(name, options, expected):
    found = describe("tfds", name=name, **options)
    assert found[:2] == expected and name in found.origin


@pytest.mark.parametrize("source", ["idx", "npz", "folder"])
@pytest.mark.parametrize("place", ["fashion-mnist", "fashion_mnist.npz"])
def test_data_that_is_not_there_is_known_by_the_name_of_its_place(tmp_path, source, place):
    path = str(tmp_path / place)
    found = describe(source, path=path)
    assert found[:2] == ((28, 28, 1), 10)
    assert path in found.origin and "fashion" in found.origin  # said, as it is a guess
    assert describe(source, path=path, name="cifar100")[:2] == ((32, 32, 3), 100)
    assert describe(source, path=path, image_size=32, channels=3)[:2] == ((32, 32, 3), 10)


def test_what_nothing_is_known_of_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"pets: expected the data of source folder, found nothing"):
        describe("folder", path=str(tmp_path / "pets"))
    with pytest.raises(DataError, match="image_size"):  # known, but not of what size
        describe("folder", path=str(tmp_path / "food101"))
    with pytest.raises(DataError, match="no TFDS set 'pets'"):
        describe("tfds", name="pets")
    with pytest.raises(ConfigError, match="needs a name"):
        describe("tfds")
    with pytest.raises(ConfigError, match="unknown data source"):
        describe("tdfs")
    with pytest.raises(ConfigError, match="channels"):
        describe("mnist", channels=2)


def test_a_source_of_one_s_own_is_read_unless_it_describes_itself(monkeypatch):
    split = Split(np.zeros((2, 5, 4, 1), np.uint8), np.arange(2, dtype=np.int32))
    monkeypatch.setitem(SOURCES, "mine", lambda name, path, form: Parts(("a", "b"), split))
    assert describe("mine")[:2] == ((5, 4, 1), 2)
    floats = split._replace(inputs=np.zeros((2, 5, 4, 1), np.float32))
    monkeypatch.setitem(SOURCES, "mine", lambda name, path, form: Parts(("a", "b"), floats))
    assert describe("mine").dtype == "float32" and describe("mnist").dtype == "uint8"
    monkeypatch.setitem(data.DESCRIPTIONS, "mine", lambda name, path, **form: ((9, 9, 3), 7))
    assert describe("mine", path="/nowhere")[:2] == ((9, 9, 3), 7)


def test_a_prepared_set_that_tfds_has_no_code_of_is_described(tmp_path):
    from tests.data.test_tfds import TEST, TRAIN, prepare

    splits = {"train": (TRAIN, np.arange(30) % 3), "test": (TEST, np.arange(9) % 3)}
    prepare(str(tmp_path), called="tiny_birds", splits=splits)
    assert describe("tfds", name="tiny_birds", path=str(tmp_path))[:2] == ((8, 6, 3), 3)
