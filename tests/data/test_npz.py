import numpy as np
import pytest

from hcjax.data.sources import npz
from hcjax.errors import DataError

LABELS = np.arange(20) % 3


@pytest.fixture
def save(tmp_path):
    def make(**arrays):
        path = tmp_path / "set.npz"
        np.savez(path, **arrays)
        return path

    return make


def test_keras_names_are_read(save, images):
    path = save(x_train=images, y_train=LABELS, x_test=images[:3], y_test=LABELS[:3, None])
    parts = npz.load(path)
    np.testing.assert_array_equal(parts.train.images, images)
    assert parts.test.labels.tolist() == [0, 1, 2]
    assert (parts.validation, parts.class_names) == (None, ("0", "1", "2"))


def test_medmnist_names_and_class_names_are_read(save, images):
    grey = images[..., 0]
    arrays = {f"{part}_images": grey for part in ("train", "val", "test")}
    arrays |= {f"{part}_labels": LABELS for part in ("train", "val", "test")}
    parts = npz.load(save(**arrays, class_names=np.array(["a", "b", "c"])))
    assert parts.validation.images.shape == (20, 6, 5, 1)
    assert parts.class_names == ("a", "b", "c")


def test_floats_and_integers_become_bytes(save, images):
    for same in (images / 255, (images / 255).astype(np.float32), images.astype(np.int64)):
        np.testing.assert_array_equal(
            npz.load(save(images=same, labels=LABELS)).train.images, images
        )


def test_floats_are_rounded_to_the_nearest_byte(save):
    between = np.array([0.0, 0.3, 0.701, 0.999]).reshape(4, 1, 1)  # 0, 76.5, 178.8, 254.7
    found = npz.load(save(images=between, labels=np.array([0, 1, 0, 1]))).train.images
    assert found.reshape(-1).tolist() == [0, 76, 179, 255]


def test_floats_a_rounding_error_outside_are_read(save):
    x = np.array([-1e-6, 0.5, 1 + 1e-6, 1 + 0.5 / 255], np.float64).reshape(4, 1, 1)
    found = npz.load(save(images=x, labels=np.array([0, 1, 0, 1]))).train.images
    assert found.reshape(-1).tolist() == [0, 128, 255, 255]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (np.where(np.arange(20) == 7, np.nan, x.T / 255).T, y), "NaN or .*image 7"),
        (lambda x, y: (x.astype(float), y), r"float64 values in 0\.\.1, found 0\.\.255"),
        (lambda x, y: (x / 255 * 1.004, y), r"in 0\.\.1, found 0\.\.1\.004"),
        (lambda x, y: (x / 127.5 - 1, y), r"found -1\.\.1; if black is -1"),
        (lambda x, y: (x.astype(np.float32), y), r"found 0\.\.255; divide by 255"),
        (lambda x, y: (np.full((20, 3, 6, 5), 9, np.uint8), y), r"look like \[N, C, H, W\]"),
        (lambda x, y: (x, np.eye(20)[y]), r"shape \(N,\), .argmax\(1\) of one-hot rows"),
        (lambda x, y: (x, y.astype(str)), r"numpy.unique\("),
        (lambda x, y: (x, y * 10**6), "without gaps, found 2000000 among 20"),
        (lambda x, y: (x.astype(np.int32) - 1, y), r"int32 values in 0\.\.255, found -1\.\."),
        (lambda x, y: (x.astype(str), y), "expected uint8 or numbers"),
        (lambda x, y: (x[0, 0], y), r"expected the shape \(N, H, W\)"),
        (lambda x, y: (x, y.astype(float)), "y_train: expected integers"),
        (lambda x, y: (x, np.full(20, 2**40)), "y_train: expected labels from 0"),
        (lambda x, y: (x, y[:19]), "train has 20 images but 19 labels"),
        (lambda x, y: (x, y - 1), "train label number 0 is -1, expected 0 to 1"),
        (lambda x, y: (x[:0], y[:0]), "expected training examples, found none"),
    ],
)
def test_wrong_arrays_are_refused(save, images, change, message):
    x, y = change(images, LABELS)
    with pytest.raises(DataError, match=message):
        npz.load(save(x_train=x, y_train=y))


def test_a_label_beyond_the_named_classes_is_refused(save, images):
    path = save(images=images, labels=LABELS, class_names=np.array(["a", "b"]))
    with pytest.raises(DataError, match="label number 2 is 2, expected 0 to 1"):
        npz.load(path)


@pytest.mark.parametrize("names", [np.array("a"), np.array([["a", "b", "c"]]), np.arange(3)])
def test_class_names_of_another_form_are_refused(save, images, names):
    with pytest.raises(DataError, match=r"expected class_names to be strings of the shape \(K,\)"):
        npz.load(save(images=images, labels=LABELS, class_names=names))


def test_a_single_array_is_refused(tmp_path, images):
    path = tmp_path / "set.npy"
    np.save(path, images)
    with pytest.raises(DataError, match=r"set.npy: expected an .npz archive, found a single array"):
        npz.load(path)


def test_missing_arrays_are_named(save, images):
    with pytest.raises(DataError, match="expected an array 'y_train', found"):
        npz.load(save(x_train=images))
    with pytest.raises(DataError, match=r"expected arrays x_train and y_train, found \['a'\]"):
        npz.load(save(a=images))


def test_pickled_objects_are_never_loaded(save, images):
    with pytest.raises(DataError, match="plain arrays"):
        npz.load(save(images=np.array([{}]), labels=LABELS))


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x03\x04 cut off"])
def test_a_damaged_archive_is_refused(tmp_path, content):
    path = tmp_path / "set.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"set.npz: expected an .npz archive"):
        npz.load(path)
    with pytest.raises(DataError, match=r"missing.npz: expected an .npz archive"):
        npz.load(tmp_path / "missing.npz")


def test_a_flipped_byte_is_found(save, images):
    path = save(images=images, labels=LABELS)
    content = bytearray(path.read_bytes())
    content[500] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"expected an .npz archive"):
        npz.load(path)
