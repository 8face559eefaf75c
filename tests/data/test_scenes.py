"""The scenes of benchmarks/emoji.py, made of emoji that are made up here."""

import numpy as np
import pytest
from PIL import Image

import hcjax
from benchmarks import scenes

PINK = (255, 0, 255)


def emoji(family, colour, height=40, width=40):
    """An opaque ring of a colour: its hole is background."""
    image = np.zeros((height, width, 4), np.uint8)
    image[...] = (*colour, 255)
    image[height // 3 : height // 2, width // 3 : width // 2] = 0
    return scenes.Emoji((family,), image)


COLOURS = np.random.default_rng(0).integers(0, 256, (30, 3))
MANY = [emoji(n, colour) for n, colour in enumerate(COLOURS)]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ([0x1F44B], [0x1F44B, 0x1F3FF], True),  # a skin tone
        ([0x1F9D1, 0x200D, 0x1F680], [0x1F469, 0x1F3FD, 0x200D, 0x1F680], True),  # a gender
        ([0x1F468, 0x200D, 0x1F467], [0x1F46A], True),  # families
        ([0x1F491], [0x1F469, 0x200D, 0x2764, 0xFE0F, 0x200D, 0x1F469], True),  # couples
        ([0x1F1E9, 0x1F1EA], [0x1F3F4, 0xE0067, 0xE0062, 0xE007F], True),  # flags of regions
        ([0x1F550], [0x1F567], True),  # clocks
        ([0x1F680], [0x1F697], False),
        ([0x1F468, 0x200D, 0x1F680], [0x1F468, 0x200D, 0x1F692], False),
        ([0x1F3FB], [0x1F3FF], False),  # a tone that stands alone
    ],
)
def test_variants_are_one_family(one, other, same):
    assert (scenes.family(one) == scenes.family(other)) == same


def test_no_family_and_nothing_that_looks_alike_is_in_two_parts():
    twins = [emoji(100 + n, COLOURS[n], 80) for n in range(10)]
    variants = [emoji(n, 255 - COLOURS[n]) for n in range(10, 20)]
    parts = scenes.split([*MANY, *twins, *variants])
    where = {}
    for part, groups in parts.items():
        for each in (each for group in groups for each in group):
            where.setdefault(each.family[0], set()).add(part)
    assert set(map(len, where.values())) == {1} and len(where) == 40
    assert all(where[n] == where[100 + n] for n in range(10))
    assert all(len(parts[part]) for part in scenes.PARTS)
    again = scenes.split([*MANY, *twins, *variants])
    families = lambda parts: {k: [[e.family for e in g] for g in v] for k, v in parts.items()}
    assert families(again) == families(parts)


def test_a_mask_is_where_the_emoji_is():
    shares = []
    for n in range(60):
        image, mask = scenes.scene(np.random.default_rng(n), [[emoji(0, PINK)]])
        pure = (image == PINK).all(-1)
        assert image.shape == (40, 40, 3) and image.dtype == mask.dtype == np.uint8
        assert (mask[pure] == 1).all() and set(np.unique(mask)) == {0, 1}
        near = np.abs(image[mask == 1] - np.float32(PINK)).max(-1)
        assert (near <= 129).all()  # at the edge half of the background, at most, shines through
        shares.append(mask.mean())
    assert 0.1 < np.mean(shares) < 0.5 and np.std(shares) > 0.05


def test_scenes_follow_their_seed_and_their_number():
    draw = lambda *seed: scenes.scene(np.random.default_rng(seed), [MANY])
    same, other = (np.array_equal(draw(0, 3)[0], draw(*seed)[0]) for seed in ((0, 3), (0, 4)))
    assert same and not other


def test_textures_differ_and_stay_in_range():
    drawn = [scenes.texture(np.random.default_rng(n), 24) for n in range(40)]
    assert all(x.shape == (24, 24, 3) and x.min() >= 0 and x.max() <= 255 for x in drawn)
    assert len({x.round().tobytes() for x in drawn}) == 40
    for field in scenes.TEXTURES:
        field = field(np.random.default_rng(0), 24)
        assert field.shape == (24, 24) and field.min() >= 0 and field.max() <= 1


def test_what_is_written_is_read_and_not_written_twice(tmp_path):
    parts = scenes.split(MANY)
    for number, part in enumerate(parts):
        scenes.write(tmp_path / part, parts[part], 3, seed=[0, number], side=16)
    data = hcjax.data.load("masks", path=tmp_path)
    image, mask = scenes.scene(np.random.default_rng([0, 2, 1]), parts["test"], side=16)
    np.testing.assert_array_equal(data.test.images[1], image)
    np.testing.assert_array_equal(data.test.labels[1], mask)
    first = tmp_path / "test" / "images" / "00000.png"
    Image.new("RGB", (16, 16)).save(first)
    scenes.write(tmp_path / "test", parts["test"], 3, seed=[0, 2], side=16)
    assert not np.asarray(Image.open(first)).any()  # left alone: the folder is whole
    scenes.write(tmp_path / "test", parts["test"], 2, seed=[0, 2], side=16)
    assert np.asarray(Image.open(first)).any()
    assert len(list((tmp_path / "test" / "masks").iterdir())) == 2
