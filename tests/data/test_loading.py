import numpy as np
import pytest

from hcjax import data
from hcjax.errors import ConfigError, DataError


def test_mnist_is_the_default_in_three_parts():
    dataset = data.load()
    sizes = [len(s.labels) for s in (dataset.train, dataset.validation, dataset.test)]
    assert sizes == [55000, 5000, 10000]
    assert (dataset.num_classes, dataset.image_shape) == (10, (28, 28, 1))
    assert dataset.statistics_examples == 55000


def test_the_same_seed_gives_the_same_parts():
    first, again, other = (data.load(seed=s).validation.labels for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_any_source_is_fitted_to_a_stated_form():
    dataset = data.load(limit=20, image_size=32, channels=3)
    assert dataset.image_shape == (32, 32, 3)
    assert (dataset.train.images[..., 0] == dataset.train.images[..., 2]).all()
    assert len(dataset.mean) == 3


def test_statistics_are_those_of_train_alone(tmp_path, images):
    white = np.full((9, 6, 5, 3), 255, np.uint8)
    arrays = {"x_train": images, "y_train": np.arange(20) % 2, "x_test": white, "y_test": [0] * 9}
    np.savez(tmp_path / "x.npz", **arrays)
    dataset = data.load("npz", path=tmp_path / "x.npz", validation=4)
    pixels = dataset.train.images.reshape(-1, 3) / 255
    np.testing.assert_allclose(dataset.mean, pixels.mean(0), rtol=1e-6)
    np.testing.assert_allclose(dataset.std, pixels.std(0), rtol=1e-6)
    assert dataset.statistics_examples == 16


def test_an_unknown_source_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="unknown data source 'minst'; did you mean 'mnist'"):
        data.load("minst")


@pytest.mark.parametrize("source", ["idx", "folder", "npz"])
def test_a_missing_path_says_what_to_give(source):
    with pytest.raises(ConfigError, match=f"source {source} needs a path"):
        data.load(source)


def test_more_validation_than_there_is_is_refused(tmp_path, images):
    np.savez(tmp_path / "x.npz", images=images, labels=np.arange(20) % 2)
    with pytest.raises(DataError, match="validation=5000 asks for 5000 examples, but only 18"):
        data.load("npz", path=tmp_path / "x.npz")
