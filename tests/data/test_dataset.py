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


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (Split(X / np.float32(255), Y), r"mine, train: expected images uint8\[N, H, W, C\]"),
        (
            Split(X[..., 0], Y),
            r"expected images uint8\[N, H, W, C\], a pixel 0 to 255, found uint8",
        ),
        (Split(np.zeros((40, 3, 28, 28), np.uint8), Y), r"look like \[N, C, H, W\]"),
        (Split(X, Y.astype(np.float32)), r"expected labels int\[N\], found float32\[40\]"),
        (Split(X, np.eye(3, dtype=np.int32)[Y]), r"expected labels int\[N\], found int32\[40, 3\]"),
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
