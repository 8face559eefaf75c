import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from hcjax.data.augment import geometry, resample
from hcjax.errors import ConfigError


def over(function):
    """The function over many keys, compiled once."""
    return jax.jit(jax.vmap(function))


IMAGE = np.random.default_rng(0).random((9, 7, 2), np.float32)


def test_bilinear_agrees_with_scipy_inside_and_outside():
    rng = np.random.default_rng(1)
    rows, columns = rng.uniform(-3, 11, (8, 6)), rng.uniform(-3, 9, (8, 6))
    expected = np.stack(
        [
            # grid-constant interpolates towards 0 at the border, as we do
            ndimage.map_coordinates(IMAGE[..., c], [rows, columns], order=1, mode="grid-constant")
            for c in range(2)
        ],
        -1,
    )
    found = resample.bilinear(IMAGE, jnp.float32(rows), jnp.float32(columns))
    np.testing.assert_allclose(found, expected, atol=2e-6)  # coordinates rounded to float32


def test_whole_coordinates_give_the_pixels():
    rows, columns = np.meshgrid(np.arange(9.0), np.arange(7.0), indexing="ij")
    np.testing.assert_array_equal(
        resample.bilinear(IMAGE, jnp.float32(rows), jnp.float32(columns)), IMAGE
    )


def test_a_quarter_turn_is_exact():
    square = IMAGE[:7]
    turned = resample.warp(square, jnp.array([[0.0, -1.0], [1.0, 0.0]]), jnp.zeros(2))
    np.testing.assert_allclose(turned, np.rot90(square), atol=1e-6)


def test_warp_moves_by_the_offset():
    moved = resample.warp(IMAGE, jnp.eye(2), jnp.array([2.0, -1.0]))
    expected = np.zeros_like(IMAGE)
    expected[2:, :-1] = IMAGE[:-2, 1:]
    np.testing.assert_allclose(moved, expected, atol=1e-6)


def spot_moments(**strengths):
    """Row, column and mass, for 300 keys, of a spot that was 6 columns right of the centre."""
    image = np.zeros((31, 31, 1), np.float32)
    image[14:17, 20:23] = 1
    keys = jax.random.split(jax.random.key(0), 300)
    none = {"rotate": 0.0, "scale": 0.0, "shift": 0.0, "shear": 0.0}
    moved = over(lambda k: geometry.affine(k, image, **(none | strengths)))(keys)[..., 0]
    rows, columns = np.mgrid[-15:16, -15:16]
    mass = np.asarray(moved).sum((1, 2))
    return (
        np.asarray((moved * rows).sum((1, 2))) / mass,
        np.asarray((moved * columns).sum((1, 2))) / mass,
        mass / 9,
    )


def test_rotation_turns_within_its_limits():
    row, column, _ = spot_moments(rotate=30.0)
    angle = np.degrees(np.arctan2(-row, column))
    assert 27 < angle.max() <= 30.5
    assert -30.5 <= angle.min() < -27
    np.testing.assert_allclose(np.hypot(row, column), 6, atol=0.1)
    assert abs(angle.std() - 30 / np.sqrt(3)) < 1.5  # uniform; sd of this estimate 0.45


def test_scale_enlarges_within_its_limits():
    _, column, mass = spot_moments(scale=0.2)
    assert 7.0 < column.max() < 7.3
    assert 4.7 < column.min() < 5.0
    assert 1.3 < mass.max() < 1.5  # (1.2)^2


def test_shift_moves_within_its_limits():
    row, column, _ = spot_moments(shift=2.5)
    for moved in (row, column - 6):
        assert 2.3 < moved.max() < 2.51
        assert -2.51 < moved.min() < -2.3
    assert abs(np.corrcoef(row, column)[0, 1]) < 0.2


def test_shear_moves_columns_by_rows():
    image = np.zeros((31, 31, 1), np.float32)
    image[4:7, 14:17] = 1  # 10 rows above the centre
    keys = jax.random.split(jax.random.key(0), 200)
    moved = over(lambda k: geometry.affine(k, image, rotate=0.0, scale=0.0, shift=0.0, shear=0.3))(
        keys
    )[..., 0]
    column = np.asarray((moved * np.arange(-15, 16)).sum((1, 2)) / moved.sum((1, 2)))
    row = np.asarray((moved * np.arange(-15, 16)[:, None]).sum((1, 2)) / moved.sum((1, 2)))
    assert 2.7 < column.max() < 3.1
    np.testing.assert_allclose(row, -10, atol=0.1)


def test_rotation_and_shear_together_keep_areas():
    _, _, mass = spot_moments(rotate=40.0, shear=0.3)
    np.testing.assert_allclose(mass, 1, atol=0.04)  # interpolation of a 3 x 3 spot


def test_elastic_displaces_by_its_strength():
    ramp = np.broadcast_to(np.arange(40.0, dtype=np.float32)[:, None, None], (40, 40, 1))
    keys = jax.random.split(jax.random.key(0), 400)
    moved = over(lambda k: geometry.elastic(k, ramp, strength=1.5, cells=5))(keys)
    at_grid_points = np.asarray(moved - ramp)[:, 20, 20]  # the middle one of 5 cells, 8 pixels each
    assert abs(at_grid_points.std() - 1.5) < 0.2  # sd of this estimate 0.05, interpolation -2 %
    step = np.diff(np.asarray(moved - ramp)[:, 8:32, 8:32], axis=2)
    assert step.std() < 0.5  # smooth: white noise of that strength has 2.1


def test_affine_with_elastic_is_both_at_once():
    same = geometry.affine(jax.random.key(1), IMAGE, elastic=0.0)
    other = geometry.affine(jax.random.key(1), IMAGE, elastic=0.5)
    assert float(jnp.abs(same - other).max()) > 0.01


def test_shift_by_whole_pixels_reaches_every_place():
    image = np.zeros((5, 5, 1), np.float32)
    image[2, 2] = 1
    keys = jax.random.split(jax.random.key(0), 200)
    moved = np.asarray(over(lambda k: geometry.shift(k, image, pixels=1))(keys))
    assert (moved.sum((1, 2, 3)) == 1).all()
    where = np.argwhere(moved[..., 0])[:, 1:]
    assert {tuple(w) for w in where} == {(i, j) for i in (1, 2, 3) for j in (1, 2, 3)}


def test_crop_shows_a_part_of_the_stated_area():
    rows = np.broadcast_to(np.arange(32.0, dtype=np.float32)[:, None], (32, 32))
    image = np.stack([rows, rows.T], -1)
    keys = jax.random.split(jax.random.key(0), 200)
    cropped = np.asarray(over(lambda k: geometry.crop(k, image, area=(0.25, 0.5)))(keys))
    slope = cropped[:, 16, 16] - cropped[:, 15, 15]  # source pixels per output pixel
    area = slope.prod(-1)
    assert 0.25 <= area.min() < 0.27
    assert 0.48 < area.max() <= 0.5001
    aspect = slope[:, 1] / slope[:, 0]
    assert 0.74 < aspect.min() < 0.8
    assert 1.25 < aspect.max() < 1.34
    assert cropped.min() >= 0
    assert cropped.max() <= 31


def test_flip_mirrors_half_of_the_images():
    keys = jax.random.split(jax.random.key(0), 400)
    flipped = np.asarray(over(lambda k: geometry.flip(k, IMAGE))(keys))
    mirrored = (flipped == IMAGE[:, ::-1]).all((1, 2, 3))
    assert ((flipped == IMAGE).all((1, 2, 3)) ^ mirrored).all()
    assert abs(mirrored.mean() - 0.5) < 0.1  # sd 0.025
    upside_down = geometry.flip(jax.random.key(0), IMAGE, probability=1.0, vertical=True)
    np.testing.assert_array_equal(upside_down, IMAGE[::-1])


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (geometry.shift, {"pixels": -1}),
        (geometry.crop, {"area": (0.5, 1.5)}),
        (geometry.crop, {"area": (0.5, 0.2)}),
        (geometry.flip, {"probability": 1.1}),
        (geometry.affine, {"rotate": -1.0}),
        (geometry.affine, {"scale": 1.0}),
        (geometry.affine, {"shift": "2"}),
        (geometry.elastic, {"cells": 1}),
    ],
)
def test_strengths_out_of_range_are_refused(function, arguments):
    with pytest.raises(ConfigError, match=f"{next(iter(arguments))} must be"):
        function(jax.random.key(0), IMAGE, **arguments)
