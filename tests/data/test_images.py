import io

import numpy as np
import pytest
from PIL import Image

from hcjax.data import images as imaging
from hcjax.errors import ConfigError, DataError


def encode(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "png")
    return file.getvalue()


def test_a_png_of_the_right_size_is_read_exactly(images):
    np.testing.assert_array_equal(imaging.read_image(encode(images[0]), (6, 5, 3)), images[0])


def test_a_path_is_read_too(images, tmp_path):
    (tmp_path / "x.png").write_bytes(encode(images[0, ..., 0]))
    found = imaging.read_image(tmp_path / "x.png", (6, 5, 1))
    np.testing.assert_array_equal(found, images[0, ..., :1])


def test_shrinking_averages_over_a_tent():
    blocks = np.array([[10, 50], [90, 250]], np.uint8)
    large = np.kron(blocks, np.ones((32, 32), np.uint8))
    found = imaging.read_image(encode(large), (2, 2, 1))[..., 0]
    # a tent as wide as two output pixels: 3/4 of it in its own block, 1/8 in each neighbour
    tent = np.array([[6, 1], [1, 6]]) / 7
    np.testing.assert_allclose(found, tent @ blocks @ tent, atol=1)


def test_transparency_and_palettes_are_read_as_colour(images):
    clear = np.concatenate([images[0], np.full((6, 5, 1), 255, np.uint8)], -1)
    np.testing.assert_array_equal(imaging.read_image(encode(clear), (6, 5, 3)), images[0])
    palette = io.BytesIO()
    Image.new("RGB", (5, 6), (10, 20, 30)).convert("P").save(palette, "png")
    assert imaging.read_image(palette.getvalue(), (6, 5, 3)).shape == (6, 5, 3)


def saved(image, kind="png", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_upright(orientation, tmp_path):
    upright = Image.new("L", (6, 4))
    upright.paste(200, (0, 0, 3, 2))  # one corner
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Pillow's transpositions, inverted
    stored = upright.transpose(undo[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    (tmp_path / "x.png").write_bytes(saved(stored, exif=exif))
    assert imaging.read_shape(tmp_path / "x.png") == (4, 6, 1)
    found = imaging.read_image(tmp_path / "x.png", (4, 6, 1))[..., 0]
    np.testing.assert_array_equal(found, np.asarray(upright))


def test_what_is_transparent_is_white():
    icon = np.zeros((4, 4, 4), np.uint8)  # black, drawn by its transparency alone
    icon[1:3, 1:3, 3] = 255
    expected = np.full((4, 4, 1), 255)
    expected[1:3, 1:3] = 0
    grey = Image.fromarray(icon).convert("LA")
    palette = Image.fromarray(np.uint8(icon[..., 3] > 0), "P")
    palette.putpalette([0, 0, 0, 0, 0, 0])
    for blob in (
        saved(Image.fromarray(icon)),
        saved(grey),
        saved(Image.fromarray(icon), "webp", lossless=True),
        saved(palette, transparency=0),
    ):
        np.testing.assert_array_equal(imaging.read_image(blob, (4, 4, 1)), expected)


def test_16_bits_of_grey_keep_their_upper_eight():
    deep = np.array([[0, 257, 256 * 200], [65535, 514, 1000]], np.uint16)
    found = imaging.read_image(encode(deep), (2, 3, 1))[..., 0]
    np.testing.assert_array_equal(found, deep // 257)


def test_several_frames_are_named():
    frames = [Image.new("L", (4, 4), n) for n in (1, 200)]
    blob = saved(frames[0], "gif", save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match="mine: expected one image, found 2 frames"):
        imaging.read_image(blob, (4, 4, 1), where="mine")


def test_no_image_is_refused_by_name():
    with pytest.raises(DataError, match="row 7: expected a readable image"):
        imaging.read_image(b"nothing", (2, 2, 1), where="row 7")


def test_arrays_are_fitted_like_files(images):
    fitted = imaging.fitted(images, (4, 4, 1))[np.arange(20)]
    for array, expected in zip(images, fitted, strict=True):
        np.testing.assert_array_equal(imaging.read_image(encode(array), (4, 4, 1)), expected)


def test_odd_channels_are_refused(images):
    with pytest.raises(ConfigError, match="need images with 1 or 3 channels, found 2"):
        imaging.fitted(images[..., :2], (4, 4, 1))
