"""Masks move with their images."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hcjax.data.augment import AUGMENTATIONS, MOVES, masks
from hcjax.data.prepare import make_prepare
from hcjax.errors import ConfigError

MASK = np.kron(np.random.default_rng(0).integers(0, 4, (4, 3)), np.ones((5, 6), int))  # 20 x 18
WAYS = [
    ("flip", {"probability": 1.0, "vertical": True}),
    ("shift", {"pixels": 7}),
    ("crop", {}),
    ("affine", {"rotate": 90.0, "shift": 6.0}),
    ("elastic", {"strength": 1.0}),
]


def test_every_augmentation_that_moves_pixels_is_tried():
    assert {name for name, _ in WAYS} == set(MOVES)


@pytest.mark.parametrize(("name", "options"), WAYS, ids=str)
def test_a_mask_says_of_every_pixel_what_the_image_shows_there(name, options):
    function = functools.partial(AUGMENTATIONS[name], **options)
    image = np.eye(4, dtype=np.float32)[MASK]  # a plane for each class
    keys = jax.random.split(jax.random.key(0), 24)

    @jax.jit
    @jax.vmap
    def both(key):
        return function(key, image), masks.moved(function, key, MASK)

    shown, said = map(np.asarray, both(keys))
    one_class = shown.max(-1) > 0.999  # the others are mixtures, at the border of two
    assert one_class.mean() > 0.3
    np.testing.assert_array_equal(said[one_class], shown.argmax(-1)[one_class])
    np.testing.assert_array_equal(said == masks.UNKNOWN, shown.sum(-1) <= 0.5)
    assert said.dtype == np.int32 and said.max() == 3
    nearest = np.take_along_axis(shown, np.maximum(said, 0)[..., None], -1)[..., 0]
    assert (nearest[said >= 0] > 0.2).all()


def test_prepare_moves_images_and_masks_by_the_same_keys():
    pixels = np.uint8(60 * MASK)[None, ..., None].repeat(8, 0)
    targets = np.uint8(MASK)[None].repeat(8, 0)
    batch = {"inputs": pixels, "labels": targets, "position": np.arange(8)}
    augment = [("flip", {}), ("noise", {"std": 0.0}), ("shift", {"pixels": 3})]
    prepare = make_prepare(mean=np.zeros(1), std=np.ones(1), num_classes=4, augment=augment)
    ready = jax.jit(prepare)(batch, jax.random.key(1))
    image, mask = np.asarray(ready["inputs"])[..., 0] * 255 / 60, np.asarray(ready["target"])
    np.testing.assert_allclose(image, np.maximum(mask, 0), atol=1e-5)
    np.testing.assert_array_equal(ready["labels"], mask)  # by which training is scored
    assert len({each.tobytes() for each in mask}) > 4 and mask.min() == masks.UNKNOWN
    np.testing.assert_array_equal(prepare(batch, None)["target"], targets)


@pytest.mark.parametrize(
    ("name", "target", "said"),
    [
        ("cutout", np.zeros((2, 8, 8), int), "parts of images, and masks"),
        ("mixup", np.zeros((2, 8, 8), int), "parts of images, and masks"),
        ("flip", np.zeros((2, 4, 4), int), r"neither labels \[N\] nor masks \[N, 8, 8\]"),
        ("affine", np.zeros((2, 8, 8), np.float32), "neither labels"),
        ("cutout", np.zeros((2, 3), np.float32), "images, and these targets are neither"),
        ("flip", {"boxes": np.zeros((2, 3, 4), np.float32)}, "neither labels"),
    ],
)
def test_what_cannot_follow_is_refused_with_what_is_legal(name, target, said):
    pixels = np.zeros((2, 8, 8, 3), np.uint8)
    batch = {"inputs": pixels, "labels": target, "position": np.arange(2)}
    prepare = make_prepare(mean=jnp.zeros(3), std=jnp.ones(3), num_classes=2, augment=[(name, {})])
    with pytest.raises(ConfigError, match=f"'{name}' .*{said}.*legal"):
        prepare(batch, jax.random.key(0))
