import json

import numpy as np
import pytest

from hcjax.data import inspection
from hcjax.data.dataset import Dataset, LazyImages, Split
from hcjax.errors import DataError

NAMES = ("a", "b", "c")


def dataset(train, validation, test, labels=None, lazy=False):
    def split(part, images):
        found = (labels or {}).get(part, np.arange(len(images)) % 3)
        if lazy:
            source = images
            images = LazyImages(lambda row: source[row], np.arange(len(source)), source.shape[1:])
        return Split(images, np.array(found, np.int32))

    parts = [split(*p) for p in zip(inspection._SPLITS, (train, validation, test), strict=True)]
    return Dataset("made", NAMES, *parts, np.ones(1), np.ones(1), len(train))


@pytest.fixture
def found(images):
    """Images 0..9, 10..14, 15..19, then spoilt in ways that are counted below."""
    train, validation, test = images[:10].copy(), images[10:15].copy(), images[15:].copy()
    train[7] = train[4]  # labels 1 and 1: a duplicate
    train[8] = train[4]  # label 2: a duplicate with another label
    train[9] = 130  # constant
    validation[1] = train[0]  # labels 1 and 0: shared, another label
    test[3] = train[0]  # label 0
    test[4] = validation[2]  # labels 1 and 2: shared, another label
    return inspection.report(dataset(train, validation, test))


def test_classes_are_counted(found):
    assert found["counts"] == {"train": [4, 3, 3], "validation": [2, 2, 1], "test": [2, 2, 1]}


def test_duplicates_within_a_part_are_counted(found):
    assert found["duplicates"] == {"train": 2, "validation": 0, "test": 0}
    assert found["examples"]["duplicates"] == ["train[7]", "train[8]"]


def test_duplicates_across_parts_are_counted(found):
    expected = {"train/validation": 1, "train/test": 1, "validation/test": 2}
    assert found["shared"] == expected  # train[0] is in all three
    assert "test[4]" in found["examples"]["shared"]


def test_equal_images_with_several_labels_are_counted(found):
    assert found["conflicts"] == 3
    assert found["examples"]["conflicts"] == ["train[8]", "validation[1]", "test[4]"]


def test_constant_images_are_counted(found):
    assert found["constant"] == {"train": 1, "validation": 0, "test": 0}
    assert found["examples"]["constant"] == ["train[9]"]


def test_streamed_images_give_the_same_report(images):
    parts = images[:10], images[10:15], images[15:]
    assert inspection.report(dataset(*parts, lazy=True)) == inspection.report(dataset(*parts))


def test_unreadable_images_are_counted_and_named_and_the_rest_is_reported(images):
    def read(row):
        if row in (2, 11):
            raise DataError(f"{row}.png: expected a readable image")
        return images[0 if row == 5 else row]  # image 5 repeats image 0

    def split(first, last):
        rows = np.arange(first, last)
        return Split(LazyImages(read, rows, images.shape[1:]), (rows % 3).astype(np.int32))

    parts = split(0, 10), split(10, 15), split(15, 20)
    found = inspection.report(Dataset("made", NAMES, *parts, np.ones(1), np.ones(1), 10))
    assert found["unreadable"] == {"train": 1, "validation": 1, "test": 0}
    assert found["duplicates"] == {"train": 1, "validation": 0, "test": 0}
    assert found["examples"]["duplicates"] == ["train[5]"]
    text = inspection.text(found)
    assert "unreadable images: train 1, validation 1\n" in text
    assert "  train[2]: 2.png: expected a readable image\n" in text
    assert "  validation[1]: 11.png: expected a readable image\n" in text


def test_an_unreadable_image_has_no_part_in_its_class_mean():
    values = [10, 20, 200, 130, 200]  # class 0 is dark, class 1 bright; the last is labelled dark
    labels = np.array([0] * 36 + [0, 0, 1, 0, 0], np.int32)

    def read(row):
        if row < 36:
            raise DataError(f"{row}: unreadable")
        return np.full((1, 1, 1), values[row - 36], np.uint8)

    split = Split(LazyImages(read, np.arange(41), (1, 1, 1)), labels)
    report = inspection.report(
        Dataset("made", NAMES, split, split, split, np.ones(1), np.ones(1), 5)
    )
    # class 0's mean is 90: 130 is 40 from it and 70 from class 1. Were the unreadable counted as
    # black, it would be 9, and 130 far from it
    assert report["far_from_class"] == 1
    assert report["examples"]["far_from_class"] == ["train[40]"]


def test_an_image_labelled_as_another_class_is_found():
    # classes 0 and 1 are dark and bright, class 2 is empty; image 12 is bright and labelled dark
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 2
    level = np.where(labels == 0, 40, 200)
    level[12] = 200
    images = (level[:, None, None, None] + rng.integers(-20, 20, (40, 4, 4, 1))).astype(np.uint8)
    report = inspection.report(dataset(images, images[:0], images[:0], {"train": labels}))
    assert report["far_from_class"] == 1
    assert report["examples"]["far_from_class"] == ["train[12]"]


def test_class_means_too_large_to_hold_are_left_out(images, monkeypatch):
    monkeypatch.setattr(inspection, "_MEANS_LIMIT", 3 * 90 - 1)
    report = inspection.report(dataset(images, images[:0], images[:0]))
    assert report["far_from_class"] is None
    assert "not computed" in inspection.text(report)


def test_the_report_is_json_and_fits_a_screen(found):
    assert json.loads(json.dumps(found)) == found
    lines = inspection.text(found).splitlines()
    assert len(lines) <= 30
    assert max(map(len, lines)) <= 120
    assert "equal images across parts: train/validation 1, train/test 1, validation/test 2" in (
        inspection.text(found)
    )


def test_many_classes_still_fit_a_screen(found):
    counts = {part: list(range(1000)) for part in inspection._SPLITS}
    names = [f"class-{k}" for k in range(1000)]
    lines = inspection.text(found | {"counts": counts, "class_names": names}).splitlines()
    assert len(lines) <= 30
    assert any("class-999" in line for line in lines)
