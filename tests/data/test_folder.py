import unicodedata

import numpy as np
import pytest
from PIL import Image

from hcjax import data
from hcjax.data.images import read_image
from hcjax.data.sources import folder
from hcjax.errors import ConfigError, DataError


def write(path, image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


@pytest.fixture
def pets(tmp_path, images):
    """cat: images 0..9, dog: images 10..19, as PNG."""
    for i, image in enumerate(images):
        write(tmp_path / ("cat" if i < 10 else "dog") / f"{i:02}.png", image)
    return tmp_path


def test_sub_folders_are_the_classes(pets, images):
    parts = folder.load(pets)
    assert parts.class_names == ("cat", "dog")
    assert parts.train.labels.tolist() == [0] * 10 + [1] * 10
    np.testing.assert_array_equal(parts.train.images[np.arange(20)], images)
    assert (parts.validation, parts.test) == (None, None)


def test_it_loads_into_memory_in_three_parts(pets):
    dataset = data.load("folder", path=pets, validation=0.25, test=4)
    assert isinstance(dataset.train.images, np.ndarray)
    assert [np.bincount(s.labels).tolist() for s in (dataset.train, dataset.test)] == [
        [6, 6],
        [2, 2],
    ]


def test_beyond_the_memory_limit_it_is_streamed_and_the_same(pets):
    arguments = {"path": pets, "validation": 4, "test": 4}
    held = data.load("folder", **arguments)
    streamed = data.load("folder", **arguments, memory_limit_bytes=20 * 6 * 5 * 3 - 1)
    assert isinstance(streamed.train.images, data.LazyImages)
    np.testing.assert_array_equal(held.mean, streamed.mean)
    for a, b in zip(
        data.train_batches(held.train, seed=0, batch_size=5, stop=4),
        data.train_batches(streamed.train, seed=0, batch_size=5, stop=4),
        strict=True,
    ):
        np.testing.assert_array_equal(a["inputs"], b["inputs"])


def test_ready_parts_are_read(tmp_path, images):
    for part, count in (("train", 6), ("val", 2), ("test", 4)):
        for i in range(count):
            write(tmp_path / part / "ab"[i % 2] / f"{i}.jpeg", images[i])
    parts = folder.load(tmp_path)
    assert [len(split.labels) for split in parts[1:4]] == [6, 2, 4]


def test_images_of_any_size_are_fitted_to_the_stated_one(tmp_path):
    # left half black, right half white: what covers 4 x 4 is the middle of the wide image
    wide = np.repeat(np.array([0] * 20 + [255] * 20, np.uint8)[None], 10, 0)
    write(tmp_path / "a" / "wide.png", wide)
    write(tmp_path / "b" / "tall.PNG", np.ascontiguousarray(wide.T))
    write(tmp_path / "b" / "color.jpg", np.full((9, 9, 3), 100, np.uint8))
    images = folder.load(tmp_path, image_size=4, channels=1).train.images[np.arange(3)]
    assert images.shape == (3, 4, 4, 1)
    # antialiasing mixes a little over the edge in the middle
    assert images[0, 0, :, 0].tolist()[::3] == [0, 255]
    np.testing.assert_array_equal(images[2], np.swapaxes(images[0], 0, 1))
    assert (images[1] == 100).all()


def test_grey_becomes_colour(pets, images):
    write(pets / "cat" / "00.png", images[0, ..., 0])
    found = folder.load(pets, channels=3).train.images[np.array([0])]
    np.testing.assert_array_equal(found[0], np.repeat(images[0, ..., :1], 3, -1))


def test_mixed_sizes_without_a_stated_one_are_refused(pets):
    write(pets / "dog" / "big.png", np.zeros((7, 5, 3), np.uint8))
    with pytest.raises(DataError, match=r"big.png: 7 x 5 pixels, expected 6 x 5 .*image_size"):
        folder.load(pets)


def test_an_unreadable_image_is_named(pets):
    file = pets / "dog" / "15.png"
    file.write_bytes(b"no image")
    with pytest.raises(DataError, match=f"{file}: expected a readable image"):
        folder.load(pets)
    with pytest.raises(DataError, match=f"{file}: expected a readable image"):
        data.load("folder", path=pets, image_size=8, validation=0.2)


def test_a_truncated_image_is_named(pets):
    file = pets / "dog" / "15.png"
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(DataError, match=f"{file}: expected a readable image"):
        data.load("folder", path=pets, validation=0.2)


def test_a_16_bit_image_is_read_and_a_float_one_refused(pets):
    write(pets / "dog" / "15.png", np.full((6, 5), 60000, np.uint16))
    parts = folder.load(pets)
    assert (parts.train.images[np.array([15])] == 60000 // 257).all()
    Image.fromarray(np.ones((6, 5), np.float32)).save(pets / "dog" / "16.tiff")
    with pytest.raises(DataError, match=r"16.tiff: expected 8 bits per channel, or 16 of grey"):
        read_image(pets / "dog" / "16.tiff", (6, 5, 1))


def test_an_empty_class_is_refused(pets):
    (pets / "emu").mkdir()
    (pets / "emu" / ".hidden").touch()
    with pytest.raises(DataError, match="expected images of class 'emu', found none"):
        folder.load(pets)


def test_other_files_are_refused(pets):
    (pets / "dog" / "notes.txt").touch()
    with pytest.raises(DataError, match=r"notes.txt: expected an image"):
        folder.load(pets)
    (pets / "readme").touch()
    with pytest.raises(DataError, match=r"notes.txt: expected an image|readme: expected only"):
        folder.load(pets)


def test_what_operating_systems_leave_behind_is_skipped(pets, images):
    expected = folder.load(pets)
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store", "cat/Thumbs.db", "dog/._15.png"):
        (pets / name).write_bytes(b"litter")
    write(pets / "__MACOSX" / "cat" / "00.png", images[0])
    found = folder.load(pets)
    assert found.class_names == expected.class_names
    assert found.train.labels.tolist() == expected.train.labels.tolist()


@pytest.mark.parametrize(
    "names",
    [("Training", "Testing", "VAL"), ("TRAIN", "Test", "Validation"), ("train", "test", "valid")],
)
def test_parts_have_any_of_their_names_in_upper_or_lower_case(tmp_path, images, names):
    for part, count in zip(names, (6, 4, 2), strict=True):
        for i in range(count):
            write(tmp_path / part / ("cat", "test")[i % 2] / f"{i}.png", images[i])
    parts = folder.load(tmp_path)
    assert parts.class_names == ("cat", "test")  # inside a part it is a class
    assert [len(split.labels) for split in parts[1:4]] == [6, 2, 4]


@pytest.mark.parametrize(
    "names, message",
    [
        (("cat", "dog", "test"), "found test beside cat, dog; a class may have"),
        (("bus", "car", "train"), "found train beside bus, car"),
        (("train", "test"), "found train, test beside no folder of a class"),
        (("val/a", "test/a"), "expected a folder train with one sub-folder per class"),
        (("train/a", "train/b", "Train/a"), "one folder of the train part, found Train and train"),
        (("train/a", "train/b", "val/a", "valid/a"), "of the validation part, found val"),
    ],
)  # fmt: skip
def test_what_may_be_a_part_or_a_class_is_named(tmp_path, images, names, message):
    for name in names:
        write(tmp_path / name / "0.png", images[0])
    with pytest.raises(DataError, match=message):
        folder.load(tmp_path)


def test_names_that_macos_takes_apart_are_one_class(tmp_path, images):
    composed, apart = (unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD"))
    for name in (f"train/{apart}", "train/b", f"test/{composed}"):
        write(tmp_path / name / "0.png", images[0])
    parts = folder.load(tmp_path)
    assert parts.class_names == ("b", composed) and parts.test.labels.tolist() == [1]
    write(tmp_path / "train" / composed / "1.png", images[1])
    with pytest.raises(DataError, match="twice, composed and decomposed"):
        folder.load(tmp_path)


@pytest.mark.parametrize("size", [None, (6, 5)])
def test_one_image_of_colour_makes_all_of_them_colour(pets, images, size):
    for i in range(20):
        write(pets / ("cat" if i < 10 else "dog") / f"{i:02}.png", images[i, ..., 0])
    assert folder.load(pets, image_size=size).train.images.shape[3] == 1
    write(pets / "dog" / "19.png", images[19])
    found = folder.load(pets, image_size=size).train.images
    assert found.shape[3] == 3
    np.testing.assert_array_equal(found[np.array([19])][0], images[19])
    assert folder.load(pets, image_size=size, channels=1).train.images.shape[3] == 1


def test_files_of_all_kinds_are_read_by_their_content(tmp_path):
    colour = np.zeros((8, 8, 3), np.uint8)
    colour[:4] = 200, 100, 50
    image, first = Image.fromarray(colour), tmp_path / "a" / "0.png"
    first.parent.mkdir()
    image.save(first)
    saved = {
        "1.jpg": ("png", image, {}),
        "2.JPEG": ("jpeg", image, {"progressive": True, "quality": 100, "subsampling": 0}),
        "3.jpg": ("jpeg", image.convert("CMYK"), {"quality": 100}),
        "4.webp": ("webp", image, {"lossless": True}),
        "5.gif": ("gif", image, {}),
        "6.tif": ("tiff", image, {}),
        "7.bmp": ("bmp", image, {}),
        "8.png": ("png", image.quantize(4), {}),
    }
    (tmp_path / "b").mkdir()
    for name, (form, picture, options) in saved.items():
        picture.save(tmp_path / "b" / name, form, **options)
    found = folder.load(tmp_path).train.images[np.arange(9)].astype(int)
    assert np.abs(found - colour).max() <= 4
    Image.fromarray(colour[..., 0] > 0).save(tmp_path / "b" / "9.png")  # one bit
    assert set(folder.load(tmp_path).train.images[np.array([9])].ravel()) == {0, 255}


@pytest.mark.parametrize(
    "name", ["labels.csv", "x.npy", "all.zip", "empty.png", "loop", "gone.png"]
)
def test_what_is_no_image_is_named(pets, name):
    file = pets / "dog" / name
    if name == "loop":
        file.symlink_to(pets, target_is_directory=True)
    elif name == "gone.png":
        file.symlink_to(pets / "nowhere.png")
    else:
        file.touch()
    with pytest.raises(DataError, match=f"dog/{name}: expected a"):
        folder.load(pets)


def test_a_class_that_train_has_not_is_refused(tmp_path, images):
    for name in ("train/a", "train/b", "test/a", "test/c"):
        write(tmp_path / name / "0.png", images[0])
    with pytest.raises(DataError, match=r"expected a class of .* \(a, b\), found 'c'"):
        folder.load(tmp_path)


def test_a_folder_without_classes_is_refused(tmp_path, images):
    write(tmp_path / "0.png", images[0])
    with pytest.raises(DataError, match="expected one sub-folder per class"):
        folder.load(tmp_path)
    with pytest.raises(DataError, match="found no such folder"):
        folder.load(tmp_path / "missing")


def test_impossible_forms_are_refused(pets):
    with pytest.raises(ConfigError, match="image_size must be pixels"):
        data.load("folder", path=pets, image_size=(3, 4, 5))
    with pytest.raises(ConfigError, match="channels must be 1"):
        data.load("folder", path=pets, channels=2)
