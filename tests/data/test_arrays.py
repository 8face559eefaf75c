"""What a pixel and a label are, by their types: nothing is divided that is in 0..1 already."""

import jax.numpy as jnp
import numpy as np
import pytest

from hcjax.data import Dataset, arrays, from_arrays, make_prepare, normalise, pairs
from hcjax.errors import DataError
from tests.tiny import images

X, Y = images(12)
ZERO, ONE = np.zeros(1, np.float32), np.ones(1, np.float32)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [("float16", 1e-3), ("float32", 0), ("float64", 1e-7), (jnp.bfloat16, 1e-2)],
)
def test_floats_in_0_to_1_are_used_as_they_are_everywhere(dtype, tolerance):
    floats = (X / 255).astype(dtype)
    given = np.asarray(floats, np.float32)
    data = Dataset(train=(floats, Y), mean=0, std=1)
    prepare = make_prepare(mean=ZERO, std=ONE, num_classes=3)
    for each in (
        data.train.images,
        normalise(floats, ZERO, ONE),
        prepare({"inputs": jnp.asarray(floats), "labels": Y}, None)["inputs"],
    ):
        np.testing.assert_array_equal(np.asarray(each), given)
    np.testing.assert_allclose(given, X / 255, atol=tolerance + 1e-7)


@pytest.mark.parametrize("dtype", ["int16", "int32", "int64", "uint16", "uint32", "float32"])
def test_integers_in_0_to_255_are_bytes_and_floats_there_are_refused(dtype):
    if dtype == "float32":
        with pytest.raises(DataError, match=r"pixels in 0\.\.1, found .*; if 255 is white give"):
            arrays.pixels(X.astype(dtype))
        return
    found = arrays.pixels(X.astype(dtype))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, X)


def test_true_is_white():
    np.testing.assert_array_equal(arrays.pixels(X > 100), 255 * (X > 100))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (X / 127.5 - 1, r"found -1 to .*\(images \+ 1\) / 2"),
        (X * 2.0, "shift and scale"),
        (X.astype(np.uint16) * 257, r"in 0\.\.255, found 0 to .*65535"),
        (X.astype(np.int8) - np.int8(1), r"int8 pixels in 0\.\.255, found -"),
        (
            np.where(np.arange(12)[:, None, None, None] == 7, np.nan, X / 255),
            r"NaN or infinity in 1 images, the first images\[7",
        ),
        (np.full((2, 1, 1, 1), np.inf), "NaN or infinity in 2 images"),
        (X.astype(complex), "found complex128"),
        (X.astype(str), "expected pixels as numbers"),
        ([[0, 1], [2]], "equal rows"),
    ],
)
def test_what_has_no_clear_range_is_refused_with_what_to_do(values, message):
    with pytest.raises(DataError, match=message):
        arrays.pixels(values)


@pytest.mark.parametrize("dtype", [np.int32, np.uint16])
def test_a_batch_of_other_integers_is_refused_not_divided(dtype):
    with pytest.raises(DataError, match="must be uint8 or floats"):
        make_prepare(mean=ZERO, std=ONE, num_classes=3)(
            {"inputs": X.astype(dtype), "labels": Y}, None
        )


@pytest.mark.parametrize("shape", [(2, 1, 28, 28), (2, 2, 8, 6), (2, 3, 224, 224), (2, 4, 9, 9)])
def test_channels_first_is_named(shape):
    with pytest.raises(DataError, match="channels first"):
        arrays.images(np.zeros(shape, np.uint8))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.eye(3)[Y], r"found float64\[12, 3\], like one-hot rows; give labels.argmax\(1\)"),
        (Y.astype(np.float32), r"float32\[12\]; give labels.astype\(int\)"),
        (Y > 0, r"bool\[12\]; give"),
        (np.array(list("abc"))[Y], r"return_inverse=True"),
        (3, r"found int64\[\]"),
    ],
)
def test_what_is_no_label_is_named(labels, message):
    with pytest.raises(DataError, match=message):
        arrays.labels(labels)


def test_pairs_name_their_parts():
    one, other = (X / 255, Y), (X[:5], Y[:5].tolist())
    sizes = lambda data: [
        len(getattr(data, part).labels) for part in ("train", "validation", "test")
    ]
    assert sizes(from_arrays(one)) == [12, 0, 0]
    assert sizes(from_arrays([list(one[0]), list(one[1])])) == [12, 0, 0]
    assert sizes(from_arrays((one, other))) == sizes(from_arrays([one, other])) == [12, 0, 5]
    assert sizes(from_arrays((one, other, other))) == [12, 5, 5]
    assert sizes(from_arrays({"train": one, "validation": other})) == [12, 5, 0]
    data = from_arrays((np.zeros((4, 2, 2, 3)), [0, 1, 4, 1]))
    assert (data.num_classes, data.mean.tolist(), data.std.tolist()) == (5, [0] * 3, [1] * 3)


@pytest.mark.parametrize(
    "data",
    [X, None, iter([]), (one := (X, Y),) * 4, (X, Y, Y), {"inputs": X, "labels": Y}, "mnist", ()],
)
def test_other_forms_of_data_are_told_what_there_is(data):
    with pytest.raises(DataError, match=r"\(images, labels\); \(\(images, labels\), \(test"):
        pairs.as_dataset(data)


def test_a_split_alone_has_no_mean():
    with pytest.raises(DataError, match="a Split does not say"):
        pairs.as_dataset(Dataset(train=(X, Y)).train)
