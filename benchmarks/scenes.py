"""Scenes to segment: colour emoji, pasted with their exact alpha over textures that are made up.

In: a font with colour bitmaps (Debian's `fonts-noto-color-emoji`). Out: images and masks, the same
bytes for the same seed and versions. An emoji is in one part only: variants of it (skin tones,
genders, families of people, flags of regions) are one family, and families are what is split.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

FONT = "usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
PARTS = {"train": 0.7, "validation": 0.15, "test": 0.15}  # of the families

# skin tones, hair, genders, directions, and what joins or ends a sequence: variants of one emoji
_VARIANTS = {0x200D, 0xFE0F, 0x2640, 0x2642, 0x27A1}
_VARIANTS |= {*range(0x1F3FB, 0x1F400), *range(0x1F9B0, 0x1F9B4)}
_PEOPLE = {*range(0x1F466, 0x1F46E), *range(0x1F474, 0x1F477), 0x1F48F, 0x1F491}
_PEOPLE |= {*range(0x1F9D1, 0x1F9D4)}
_TOGETHER = {0x2764, 0x1F48B, 0x1F91D}  # hearts, kisses, hands: of people, only how they stand
_HANDS = {0x1F91D, 0x1FAF1, 0x1FAF2}  # a handshake, and its halves in two skin tones
_CLOCKS = range(0x1F550, 0x1F568)
_REGIONS = {*range(0x1F1E6, 0x1F200), *range(0xE0020, 0xE0080)}  # letters of regions' flags


class Emoji(NamedTuple):
    """A bitmap, uint8[H, W, 4] with alpha, cropped to what is seen of it, and its family."""

    family: tuple[int, ...]
    image: np.ndarray


def family(sequence: Sequence[int]) -> tuple[int, ...]:
    """Returns what an emoji has in common with its variants.

    Args:
      sequence: of code points.

    Example:
      >>> thumb, man, woman, rocket = 0x1F44D, 0x1F468, 0x1F469, 0x1F680
      >>> family([thumb, 0x1F3FD]) == family([thumb])
      True
      >>> family([man, 0x200D, rocket]) == family([woman, 0x1F3FB, 0x200D, rocket])
      True
      >>> family([0x1F1E9, 0x1F1EA]) == family([0x1F1EB, 0x1F1F7]) != family([rocket])
      True
    """
    found = {point for point in sequence if point not in _VARIANTS}
    for alike in (_PEOPLE, _HANDS, _CLOCKS, _REGIONS):
        if common := found.intersection(alike):
            found = found - common | {min(alike)}
    if min(_REGIONS) in found:
        found = {min(_REGIONS)}
    if min(_PEOPLE) in found:
        found -= _TOGETHER
    return tuple(sorted(found)) or tuple(sequence)


def read(font: str | Path) -> list[Emoji]:
    """Returns the emoji of a font with bitmaps (tables CBDT and GSUB), in the order of its glyphs.

    Raises:
      SystemExit: if fontTools, which matplotlib brings, is missing.
    """
    try:
        from fontTools.ttLib import TTFont
    except ImportError:
        raise SystemExit("reading the font needs fontTools: pip install fonttools") from None
    with TTFont(font) as tables:
        sequences = {glyph: (point,) for point, glyph in tables.getBestCmap().items()}
        for lookup in tables["GSUB"].table.LookupList.Lookup:
            for table in lookup.SubTable:
                table = getattr(table, "ExtSubTable", table)
                for first, ligatures in getattr(table, "ligatures", {}).items():
                    for each in ligatures:
                        parts = (first, *each.Component)
                        if all(part in sequences for part in parts):
                            points = tuple(p for part in parts for p in sequences[part])
                            sequences.setdefault(each.LigGlyph, points)
        found = []
        for glyph, bitmap in tables["CBDT"].strikeData[0].items():
            with Image.open(io.BytesIO(bitmap.imageData)) as image:
                image = image.convert("RGBA")
            box = image.getchannel("A").getbbox()
            if glyph in sequences and box:
                found.append(Emoji(family(sequences[glyph]), np.asarray(image.crop(box))))
    return found


def alike(emoji: Sequence[Emoji], *, rms: float = 14.0) -> list[int]:
    """Returns for each emoji the number of its group: its family, and all that look like one of it.

    Squares of several sizes, and faces that differ by a few pixels, are emoji of their own; with
    one in training, another would not be unseen.

    Args:
      emoji: of `read`. rms: of the difference of two that look alike, shrunk to 16 x 16 pixels
        without regard to shape, colours weighted by alpha; of 255.

    Example:
      >>> square, other = (np.full((8, 8, 4), value, np.uint8) for value in (250, 100))
      >>> alike([Emoji((1,), square), Emoji((2,), square), Emoji((3,), other), Emoji((3,), square)])
      [0, 0, 0, 0]
    """
    looks = np.stack([_look(each.image) for each in emoji])
    squares = np.square(looks).sum(1)
    near = squares[:, None] + squares - 2 * looks @ looks.T < rms**2 * looks.shape[1]
    first = {family: n for n, family in reversed(list(enumerate(each.family for each in emoji)))}
    group = [first[each.family] for each in emoji]

    def root(n):
        while group[n] != n:
            n = group[n]
        return n

    for one, other in np.argwhere(near):
        low, high = sorted((root(int(one)), root(int(other))))
        group[high] = low
    return [root(n) for n in range(len(emoji))]


def _look(image: np.ndarray) -> np.ndarray:
    """Returns float32[1024]: 16 x 16 pixels, colours times alpha, and alpha."""
    small = np.asarray(Image.fromarray(image).resize((16, 16), Image.Resampling.BOX), np.float32)
    small[..., :3] *= small[..., 3:] / 255
    return small.ravel()


def split(emoji: Sequence[Emoji], *, seed: int = 0) -> dict[str, list[list[Emoji]]]:
    """Returns part -> groups -> emoji: every family, and what looks like it, is in one part.

    Args:
      emoji: of `read`. seed: of the draw.

    Example:
      >>> all_of_them = [Emoji((n % 20,), np.full((1, 1, 4), n % 20 * 12)) for n in range(40)]
      >>> {part: len(families) for part, families in split(all_of_them).items()}
      {'train': 14, 'validation': 3, 'test': 3}
    """
    groups: dict[int, list[Emoji]] = {}
    for each, group in zip(emoji, alike(emoji), strict=True):
        groups.setdefault(group, []).append(each)
    listed = list(groups.values())  # in the order of the font
    order = np.random.default_rng(seed).permutation(len(listed))
    ends = np.round(np.cumsum(list(PARTS.values())) * len(listed)).astype(int)
    starts = [0, *ends[:-1]]
    return {
        part: [listed[i] for i in order[start:end]]
        for part, start, end in zip(PARTS, starts, ends, strict=True)
    }


def scene(
    rng: np.random.Generator, families: Sequence[Sequence[Emoji]], *, side: int = 40
) -> tuple[np.ndarray, np.ndarray]:
    """Draws one scene: a texture, and on it one emoji, or two in a quarter of the scenes.

    A family is drawn first, then one of it, so that no emoji counts by its number of variants. Its
    longer side is 0.45 to 0.95 of the scene's (two: 0.4 to 0.6), turned by up to 40 degrees, in
    half of the scenes, and mirrored in half; it lies within the scene but for a tenth of the side.

    Args:
      families: of a part. side: pixels.

    Returns:
      (image uint8[side, side, 3], mask uint8[side, side]: 1 where alpha is a half or more).
    """
    image = texture(rng, side)
    alpha = np.zeros((side, side), np.float32)
    count = 1 + (rng.random() < 0.25)
    for _ in range(count):
        members = families[rng.integers(len(families))]
        size = side * (rng.uniform(0.45, 0.95) if count == 1 else rng.uniform(0.4, 0.6))
        pasted = _turned(rng, members[rng.integers(len(members))].image, size)
        image, alpha = _paste(rng, pasted, image, alpha)
    return np.uint8(np.clip(image + 0.5, 0, 255)), np.uint8(alpha >= 0.5)


def _turned(rng: np.random.Generator, image: np.ndarray, size: float) -> np.ndarray:
    """Returns the emoji at a size in pixels, turned and mirrored, float32[h, w, 4] in 0..255."""
    picture = Image.fromarray(image)
    scale = 2 * size / max(picture.size)
    picture = picture.resize([max(2, round(scale * n)) for n in picture.size], Image.Resampling.BOX)
    angle = rng.uniform(-40, 40) * (rng.random() < 0.5)
    if angle:
        picture = picture.rotate(angle, Image.Resampling.BICUBIC, expand=True)
    if rng.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(picture.reduce(2), np.float32)


def _paste(rng, pasted, image, alpha) -> tuple[np.ndarray, np.ndarray]:
    """Returns the image and the alpha of all objects, with one more at a random place."""
    side, (height, width) = len(image), pasted.shape[:2]
    beyond = 0.1 * side
    top, left = (
        int(np.floor(rng.uniform(*sorted((-beyond, side - n + beyond))))) for n in (height, width)
    )
    rows = slice(max(top, 0), min(top + height, side))
    columns = slice(max(left, 0), min(left + width, side))
    own = pasted[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    share = own[..., 3] / 255
    image, alpha = image.copy(), alpha.copy()
    image[rows, columns] += share[..., None] * (own[..., :3] - image[rows, columns])
    alpha[rows, columns] += share * (1 - alpha[rows, columns])
    return image, alpha


def texture(rng: np.random.Generator, side: int) -> np.ndarray:
    """Draws a texture float32[side, side, 3] in 0..255: a gradient, noise, stripes or tiles.

    Two to four colours are mixed by a field of that kind; fine noise is added in half of them.
    """
    kind = TEXTURES[rng.integers(len(TEXTURES))]
    colours = rng.uniform(0, 255, (2, 3)).astype(np.float32)
    image = colours[0] + kind(rng, side)[..., None] * (colours[1] - colours[0])
    if rng.random() < 0.5:  # a second field, of other colours, mixed in
        other = rng.uniform(0, 255, (2, 3)).astype(np.float32)
        field = TEXTURES[rng.integers(len(TEXTURES))](rng, side)[..., None]
        share = gradient(rng, side)[..., None] if rng.random() < 0.5 else 0.5
        image += share * (other[0] + field * (other[1] - other[0]) - image)
    if rng.random() < 0.5:
        image += rng.uniform(2, 16) * rng.standard_normal((side, side, 1), np.float32)
    return np.clip(image, 0, 255)


def _along(rng: np.random.Generator, side: int) -> np.ndarray:
    """Returns the place of each pixel along a random direction, about -0.7..0.7."""
    angle = rng.uniform(0, 2 * np.pi)
    rows, columns = np.mgrid[:side, :side].astype(np.float32) / side - 0.5
    return np.cos(angle) * rows + np.sin(angle) * columns


def gradient(rng: np.random.Generator, side: int) -> np.ndarray:
    """Returns a field float32[side, side] in 0..1 that rises in one direction."""
    return np.clip(0.5 + rng.uniform(0.5, 2) * _along(rng, side), 0, 1)


def noise(rng: np.random.Generator, side: int) -> np.ndarray:
    """Returns a field in 0..1: octaves of smooth noise, each half as strong as the one before."""
    total, cells = np.zeros((side, side), np.float32), int(rng.integers(2, 8))
    for octave in range(int(rng.integers(1, 5))):
        coarse = rng.standard_normal((min(cells, side),) * 2).astype(np.float32)
        fine = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
        total += np.asarray(fine) * rng.uniform(0.4, 0.7) ** octave
        cells *= 2
    return (total - total.min()) / max(np.ptp(total), 1e-6)


def stripes(rng: np.random.Generator, side: int) -> np.ndarray:
    """Returns a field in 0..1 of soft or hard stripes, bent by noise in half of the draws."""
    place = _along(rng, side)
    if rng.random() < 0.5:
        place = place + rng.uniform(0.05, 0.3) * noise(rng, side)
    wave = np.sin(2 * np.pi * (rng.uniform(2, 10) * place + rng.random()))
    return np.clip(0.5 + rng.uniform(0.5, 4) * wave, 0, 1).astype(np.float32)


def tiles(rng: np.random.Generator, side: int) -> np.ndarray:
    """Returns a field in 0..1 of cells about random points, each of one value."""
    points = rng.uniform(0, side, (int(rng.integers(4, 30)), 2)).astype(np.float32)
    values = rng.random(len(points)).astype(np.float32)
    pixels = np.stack(np.mgrid[:side, :side], -1).astype(np.float32)
    distance = np.square(pixels[:, :, None] - points).sum(-1)
    return values[distance.argmin(-1)]


TEXTURES: tuple[Callable[[np.random.Generator, int], np.ndarray], ...] = (
    gradient, noise, noise, stripes, tiles,
)  # fmt: skip


def write(folder: str | Path, families, count: int, *, seed: Sequence[int], side: int = 40) -> None:
    """Writes `images/NNNNN.png` and `masks/NNNNN.png`, as the source `masks` reads them.

    Scene n depends on the seed and on n alone. A mask is 0 or 255.

    Args:
      folder: of a part; made, unless it is whole already. families: of that part. count: of scenes.
      seed: numbers. side: pixels.
    """
    folder = Path(folder)
    whole = folder / ".whole"
    said = f"{count} {side} {list(seed)}"
    if whole.exists() and whole.read_text() == said:
        return
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for old in (folder / kind).glob("*.png"):
            old.unlink()
    whole.unlink(missing_ok=True)
    for n in range(count):
        image, mask = scene(np.random.default_rng([*seed, n]), families, side=side)
        Image.fromarray(image).save(folder / "images" / f"{n:05d}.png")
        Image.fromarray(255 * mask).save(folder / "masks" / f"{n:05d}.png")
    whole.write_text(said)
