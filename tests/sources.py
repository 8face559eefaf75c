"""The data of configs whose sources are no classified images, a few examples of each."""

import csv
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import wavfile

from hcjax.data.dataset import PARTS

SENTENCES = ("a yellow fruit", "a small bird that sings", "to run away", "a fruit or a bird")


def make(source, place, options):
    """Writes data of a source that a config's section `data` with these options can read.

    source: "csv", "masks" or "wav". place: a folder. options: the section.
    """
    Path(place).mkdir(parents=True)
    for part in PARTS:
        MAKERS[source](Path(place) / part, options)


def table(place, options):
    with open(place.with_suffix(".csv"), "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow([options["text"], options["target"]])
        rows.writerows([SENTENCES[i % 4], "plant" if i % 2 else "animal"] for i in range(40))


def masks(place, options, side=40):
    rng = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (place / kind).mkdir(parents=True)
    for i in range(12):
        pixels = rng.integers(0, 256, (side, side, 3), np.uint8)
        Image.fromarray(pixels).save(place / "images" / f"{i}.png")
        mask = (rng.random((side, side)) > 0.5).astype(np.uint8) * 255
        Image.fromarray(mask).save(place / "masks" / f"{i}.png")


def sounds(place, options):
    rng = np.random.default_rng(0)
    for name in "0123456789":
        (place / name).mkdir(parents=True)
        for i in range(4):
            noise = rng.integers(-9999, 9999, options["rate"] // 2).astype(np.int16)
            wavfile.write(place / name / f"{i}.wav", options["rate"], noise)


MAKERS = {"csv": table, "masks": masks, "wav": sounds}
