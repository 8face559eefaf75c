"""Datasets made by hand: what is not an image or a label is named, not trained on."""

import dataclasses

import jax
import numpy as np
import optax
import pytest

import hcjax
from hcjax.data import Split
from hcjax.errors import ConfigError, DataError
from tests.tiny import images

X, Y = images(40)


def dataset(train=None, classes=3):
    base = hcjax.data.load("mnist", limit=4)
    empty = Split(X[:0], Y[:0])
    names = tuple("abcdefgh"[:classes])
    train = train or Split(X, Y)
    return dataclasses.replace(
        base, name="mine", class_names=names, train=train, validation=empty, test=empty
    )


def test_images_and_labels_as_they_should_be_are_taken():
    assert dataset().num_classes == 3
    assert dataset(Split(X, Y.astype(np.uint8))).image_shape == X.shape[1:]


def test_by_hand_images_and_labels_are_enough():
    ours = hcjax.data.Dataset(train=(X, Y.tolist()))
    assert ours.class_names == ("0", "1", "2") and ours.statistics_examples == 40
    assert len(ours.validation.labels) == len(ours.test.labels) == 0
    np.testing.assert_allclose(ours.mean, (X / 255).mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(ours.std, (X / 255).std((0, 1, 2)), rtol=1e-6)
    floats = hcjax.data.Dataset(train=(X / 255, Y), test=(X[:7, ..., 0], Y[:7, None]))
    np.testing.assert_allclose([floats.mean, floats.std], [ours.mean, ours.std], rtol=1e-5)
    assert floats.test.images.shape == (7, 8, 8, 1) and floats.test.labels.ndim == 1
    assert hcjax.data.Dataset(train=(X, Y), class_names=list("abc"), mean=0.5).mean.tolist() == [
        0.5
    ]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "a training part is needed"),
        ({"train": X}, r"expected a pair \(images, labels\), found uint8\[40, 8, 8, 1\]"),
        ({"train": (X[:0], Y[:0])}, "no training image"),
        ({"train": (X, Y), "test": (X[:, :4], Y)}, r"test: images are \[4, 8, 1\], those of train"),
        (
            {"train": (X, Y), "test": (X, Y + 5), "class_names": ("a", "b", "c")},
            "test: labels must be",
        ),
        ({"train": (X, Y), "mean": [0.1, 0.2]}, "mean: expected 1 numbers finite"),
        ({"train": (X, Y), "mean": 127.0}, "mean / 255"),
        ({"train": (X, Y), "std": 0.0}, "std: expected 1 numbers > 0"),
    ],
)
def test_what_is_missing_or_does_not_fit_is_named(fields, message):
    with pytest.raises(DataError, match=message):
        hcjax.data.Dataset(**fields)


def test_a_dataset_prints_on_one_line():
    assert repr(hcjax.data.Dataset(train=(X / 255, Y))).startswith(
        "Dataset arrays: 3 classes, 8 x 8 x 1 float32; train 40, validation 0, test 0; mean 0."
    )
    assert len(repr(Split(X, Y))) < 60


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (Split(X.astype(np.float32), Y), r"mine, train: expected float32 pixels in 0\.\.1, found"),
        (Split(X[..., 0, 0], Y), r"expected images \[N, H, W, C\].*reshape\(-1, H, W, C\)"),
        (Split(X[0, 0, 0], Y), r"expected images \[N, H, W, C\].*images\[None\]"),
        (Split(np.zeros((40, 3, 28, 28), np.uint8), Y), r"look like \[N, C, H, W\]"),
        (Split(X, Y.astype(np.float32)), r"expected labels int\[N\], found float32\[40\]"),
        (Split(X, np.eye(3, dtype=np.int32)[Y]), r"int32\[40, 3\], like one-hot.*argmax"),
        (Split(X, Y[:-1]), "40 images have 39 labels"),
        (Split(X, Y + 1), r"labels must be in \[0, 3\), .* found 1 to 3"),
        (Split(X, Y - 1), r"labels must be in \[0, 3\), .* found -1 to 1"),
    ],
)
def test_what_is_no_image_or_label_is_named(train, message):
    with pytest.raises(DataError, match=message):
        dataset(train)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0, 2.0], r"one for each of the 3 classes, got \[2\]"),
        (2.0, r"one for each of the 3 classes, got \[\]"),
        ([1.0, -1.0, 1.0], "finite, >= 0 and not all 0, got"),
        ([1.0, np.nan, 1.0], "finite, >= 0 and not all 0, got"),
        ([0.0, 0.0, 0.0], "finite, >= 0 and not all 0, got"),
    ],
)
def test_class_weights_that_cannot_be_are_named(weights, message):
    params = {"w": np.zeros((X[0].size, 3), np.float32)}
    apply = lambda p, x: x.reshape(len(x), -1) @ p["w"]
    options = {"loss": hcjax.losses.cross_entropy, "tx": optax.sgd(0.1), "quiet": True}
    with pytest.raises(ConfigError, match=message):
        hcjax.fit(
            apply, params, dataset(), steps=1, batch_size=8, key=jax.random.key(0),
            class_weights=weights, **options,
        )  # fmt: skip


def test_streamed_images_are_cut_like_an_array():
    lazy = hcjax.data.LazyImages(lambda row: X[row], np.arange(40), X.shape[1:])
    np.testing.assert_array_equal(lazy[:5], X[:5])
    np.testing.assert_array_equal(lazy[np.array([3, 1])], X[[3, 1]])
