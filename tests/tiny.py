"""A run of a second: images that are easily told apart, a tiny network, two epochs."""

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

import numpy as np

from hcjax.app import cli

ROOT = Path(__file__).resolve().parents[1]
CLASSES = ("ant", "bee", "cat")
TEST_EXAMPLES = 21  # no multiple of a batch or of a number of devices


def images(count, *, side=8, channels=1, seed=0):
    """Returns (uint8[count, side, side, channels], int64[count]): class k is bright in row k."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % len(CLASSES)
    x = rng.integers(0, 60, (count, side, side, channels))
    x[np.arange(count), labels] += 150
    return x.astype(np.uint8), labels


def npz(path, *, classes=CLASSES, side=8, channels=1, train=48, test=TEST_EXAMPLES):
    """Returns the path of an archive with a training part, a test part and class names."""
    x_train, y_train = images(train, side=side, channels=channels)
    x_test, y_test = images(test, side=side, channels=channels, seed=1)
    names = {} if classes is None else {"class_names": np.array(classes)}
    test_part = {"x_test": x_test, "y_test": y_test} if test else {}
    np.savez(path, x_train=x_train, y_train=y_train, **test_part, **names)
    return path


def pictures(place, side=8, mode="L"):
    """Writes six image files, and returns their paths and classes."""
    from PIL import Image

    x, y = images(6, side=side, seed=3)
    files = [place / f"{i}.{'png' if i % 2 else 'jpg'}" for i in range(len(x))]
    for file, image in zip(files, x, strict=True):
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).convert(mode).save(file)
    return files, [CLASSES[label] for label in y]


@functools.cache
def folder():
    """Returns a folder of this process's own, which is removed when it ends."""
    path = Path(tempfile.mkdtemp(prefix="hcjax-tests-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


def flags(data, cache=None, config="default"):
    """Returns the arguments of a run of 4 steps, 16 images each, with validation after 2 and 4."""
    keys = {
        "cache_dir": cache or folder() / "cache",  # or every test compiles anew
        "data.source": "npz",
        "data.path": data,
        "data.validation": 16,
        "model.name": "seed_cnn_tiny",
        "optim.learning_rate": 0.03,
        "train.batch_size": 16,
        "train.epochs": 2,
    }
    changes = [f"--config.{key}={value}" for key, value in keys.items()]
    return [f"--config={ROOT / 'configs' / config}.py", *changes]


def launch(*arguments):
    """Returns the exit code of the command line in this process."""
    return cli.main(["launch.py", *map(str, arguments)])


@functools.cache
def trained():
    """Returns the workdir of a finished run; its data is beside it. Made once per process."""
    workdir = folder() / "run"
    assert launch(*flags(npz(folder() / "data.npz")), f"--workdir={workdir}", "--quiet") == 0
    return workdir
