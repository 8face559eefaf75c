import gzip
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from hcjax import data
from hcjax.data.sources import idx
from hcjax.errors import DataError

FASHION = Path("/usr/share/datasets/fashion-mnist")  # where Debian's package puts it


def encode(array: np.ndarray, magic: bytes = b"\0\0\x08") -> bytes:
    sizes = b"".join(int(n).to_bytes(4, "big") for n in array.shape)
    return magic + bytes([array.ndim]) + sizes + array.astype(np.uint8).tobytes()


def write(folder: Path, name: str, array: np.ndarray) -> None:
    content = encode(array)
    (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)


@pytest.fixture
def folder(tmp_path, images):
    """The names of dataset-fashion-mnist: 16 training and 4 test images of 2 classes."""
    labels = np.arange(20) % 2
    write(tmp_path, "train-images-idx3-ubyte.gz", images[:16, ..., 0])
    write(tmp_path, "train-labels-idx1-ubyte.gz", labels[:16])
    write(tmp_path, "t10k-images-idx3-ubyte.gz", images[16:, ..., 0])
    write(tmp_path, "t10k-labels-idx1-ubyte.gz", labels[16:])
    return tmp_path


def test_a_folder_gives_its_images_and_labels(folder, images):
    parts = idx.load(folder)
    np.testing.assert_array_equal(parts.train.images, images[:16, ..., :1])
    np.testing.assert_array_equal(parts.test.images, images[16:, ..., :1])
    assert parts.test.labels.tolist() == [0, 1, 0, 1]
    assert parts.class_names == ("0", "1")


def test_it_loads_as_a_dataset(folder):
    dataset = data.load("idx", path=str(folder), validation=0.25, name="mine")
    sizes = [len(s.labels) for s in (dataset.train, dataset.validation, dataset.test)]
    assert (sizes, dataset.name) == ([12, 4, 4], "mine")


def test_uncompressed_and_dotted_names_are_read(tmp_path, images):
    write(tmp_path, "train-images.idx3-ubyte", images[:4, ..., 0])
    write(tmp_path, "train-labels.idx1-ubyte", np.array([0, 1, 2, 0]))
    parts = idx.load(tmp_path)
    assert (parts.train.images.shape, parts.test) == ((4, 6, 5, 1), None)


def test_classes_can_be_named(folder):
    (folder / "classes.txt").write_text("cat\ndog\n")
    assert idx.load(folder).class_names == ("cat", "dog")


def test_class_names_not_in_utf8_are_refused(folder):
    (folder / "classes.txt").write_bytes("Füchse\nWölfe".encode("latin-1"))
    with pytest.raises(DataError, match=r"classes.txt: expected one class name a line, in UTF-8"):
        idx.load(folder)


def test_a_repeated_class_name_is_refused(folder):
    (folder / "classes.txt").write_text("cat\ncat\n")
    with pytest.raises(DataError, match="a name of its own for each class, found twice: 'cat'"):
        idx.load(folder)


def test_all_members_of_a_gzip_file_are_read(tmp_path):
    content = encode(np.arange(200).reshape(20, 10))
    file = tmp_path / "x.gz"
    file.write_bytes(
        gzip.compress(content[:7]) + gzip.compress(content[7:90]) + gzip.compress(content[90:])
    )
    np.testing.assert_array_equal(idx.read_idx(file), np.arange(200).reshape(20, 10))


def test_nothing_is_decompressed_beyond_what_the_header_says(tmp_path):
    file = tmp_path / "x.gz"
    file.write_bytes(gzip.compress(encode(np.zeros(3)) + bytes(2**26)))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"expected 11 bytes.*found more; it is too long"):
            idx.read_idx(file)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 2**23  # of 2**26


def test_a_header_of_more_than_any_memory_is_only_truncated(tmp_path):
    (tmp_path / "x").write_bytes(b"\0\0\x08\x08" + b"\xff" * 32)
    with pytest.raises(DataError, match="found 36; the file is truncated"):
        idx.read_idx(tmp_path / "x")


@pytest.mark.skipif(not FASHION.exists(), reason="dataset-fashion-mnist is not installed")
def test_the_debian_package_works_as_it_is():
    parts = idx.load(FASHION)
    assert np.bincount(parts.train.labels).tolist() == [6000] * 10
    assert np.bincount(parts.test.labels).tolist() == [1000] * 10


def test_wrong_magic_is_refused(folder):
    file = folder / "train-labels-idx1-ubyte.gz"
    file.write_bytes(gzip.compress(b"\0\0\x0d\x01" + bytes(8)))
    with pytest.raises(DataError, match=f"{file}: expected an IDX file.*found 00 00 0d 01"):
        idx.load(folder)


def test_a_truncated_file_is_refused(tmp_path):
    file = tmp_path / "x"
    file.write_bytes(encode(np.zeros((2, 3)))[:-1])
    with pytest.raises(DataError, match=r"expected 18 bytes .* \(2, 3\), found 17.*truncated"):
        idx.read_idx(file)


def test_a_truncated_header_is_refused(tmp_path):
    (tmp_path / "x").write_bytes(b"\0\0\x08\x03\0\0")
    with pytest.raises(DataError, match="truncated"):
        idx.read_idx(tmp_path / "x")


def test_a_file_that_is_too_long_is_refused(tmp_path):
    (tmp_path / "x").write_bytes(encode(np.zeros(3)) + b"x")
    with pytest.raises(DataError, match=r"expected 11 bytes.*found more; it is too long"):
        idx.read_idx(tmp_path / "x")


@pytest.mark.parametrize("damage", [lambda b: b[:-9], lambda b: b[:30] + b"\xff\0" + b[32:]])
def test_a_damaged_gzip_file_is_refused(folder, damage):
    file = folder / "train-images-idx3-ubyte.gz"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(DataError, match=r"train-images.*expected a whole gzip file"):
        idx.load(folder)


def test_different_numbers_of_images_and_labels_are_refused(folder):
    write(folder, "train-labels-idx1-ubyte.gz", np.arange(15) % 2)
    with pytest.raises(DataError, match="train has 16 images but 15 labels"):
        idx.load(folder)


def test_a_test_label_out_of_range_is_refused(folder):
    write(folder, "t10k-labels-idx1-ubyte.gz", np.array([0, 1, 7, 1]))
    with pytest.raises(DataError, match="test label number 2 is 7, expected 0 to 1"):
        idx.load(folder)


def test_parts_of_different_shape_are_refused(folder, images):
    write(folder, "t10k-images-idx3-ubyte.gz", images[16:, :5, :, 0])
    with pytest.raises(DataError, match=r"test images have the shape \(5, 5, 1\), expected .*6, 5"):
        idx.load(folder)


def test_a_class_without_example_is_refused(folder):
    write(folder, "train-labels-idx1-ubyte.gz", np.arange(16) % 2 + 1)
    with pytest.raises(DataError, match="found none of class 0; labels must be numbered from 0"):
        idx.load(folder)


def test_a_missing_partner_file_is_named(folder):
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match=r"found t10k-images.*expected t10k-labels-idx1-ubyte"):
        idx.load(folder)


def test_images_with_one_axis_are_refused(folder):
    write(folder, "train-images-idx3-ubyte.gz", np.zeros(16))
    with pytest.raises(DataError, match=r"train-images.*expected images with 3 axes.*\(16,\)"):
        idx.load(folder)


def test_a_folder_without_idx_files_says_what_it_holds(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(DataError, match=r"expected train-images-idx3-ubyte.*found notes.txt"):
        idx.load(tmp_path)
    with pytest.raises(DataError, match="found no such folder"):
        idx.load(tmp_path / "missing")
