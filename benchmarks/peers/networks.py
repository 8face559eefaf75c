"""The five networks of the race as plain data, which every library builds with its own layers.

A layer is (kind, arguments…): ("conv", outputs, size, stride, padding, bias), ("norm",), ("relu",),
("max_pool" | "avg_pool", size, stride) as "same" padding has it where 2 does not divide, ("mean",),
("flatten",), ("dense", units), ("dropout", rate), ("block", outputs, stride): ResNet's two
convolutions with the shortcut of option A.
"""

from typing import NamedTuple

CLASSES = 10
BATCH = 128
IMAGES = 100 * BATCH  # of the data set that trainings draw from


class Work(NamedTuple):
    """A network: hcjax's name for it, (H, W, C), its optimiser and its layers."""

    name: str
    shape: tuple
    optimizer: str  # "adam" (1e-3) or "sgd" (0.01, momentum 0.9)
    layers: tuple


def _conv(outputs, size, padding="same", bias=True):
    return [("conv", outputs, size, 1, padding, bias)]


def _nin():
    layers = []
    for pool, size, widths in (
        ("max_pool", 5, (192, 160, 96)),
        ("avg_pool", 5, (192, 192, 192)),
        (None, 3, (192, 192, CLASSES)),
    ):
        for n, width in enumerate(widths):
            layers += [*_conv(width, size if n == 0 else 1), ("relu",)]
        layers += [(pool, 3, 2), ("dropout", 0.5)] if pool else []
    return [*layers[:-1], ("mean",)]  # no relu after the last


def _alexnet32():
    layers = []
    for width, pool in ((64, True), (192, True), (384, False), (256, False), (256, True)):
        layers += [*_conv(width, 3), ("relu",)] + ([("max_pool", 2, 2)] if pool else [])
    layers.append(("flatten",))
    for units in (1024, 1024):
        layers += [("dense", units), ("relu",), ("dropout", 0.5)]
    return [*layers, ("dense", CLASSES)]


def _resnet20():
    layers = [*_conv(16, 3, bias=False), ("norm",), ("relu",)]
    for width, stride in ((16, 1), (32, 2), (64, 2)):
        layers += [("block", width, stride), ("block", width, 1), ("block", width, 1)]
    return [*layers, ("mean",), ("dense", CLASSES)]


def _lenet5():
    layers = []
    for width in (20, 50):
        layers += [*_conv(width, 5, "valid"), ("max_pool", 2, 2)]
    return [*layers, ("flatten",), ("dense", 500), ("relu",), ("dense", CLASSES)]


def _seed_cnn():
    layers = [*_conv(32, 3, "valid"), ("relu",), ("max_pool", 2, 2), ("flatten",)]
    return [*layers, ("dense", CLASSES)]


WORKS = {
    "seed CNN": Work("mnist_cnn", (28, 28, 1), "adam", tuple(_seed_cnn())),
    "LeNet-5": Work("lenet5", (28, 28, 1), "adam", tuple(_lenet5())),
    "ResNet-20": Work("resnet20", (32, 32, 3), "sgd", tuple(_resnet20())),
    "NIN": Work("nin", (32, 32, 3), "sgd", tuple(_nin())),
    "AlexNet 32": Work("alexnet32", (32, 32, 3), "sgd", tuple(_alexnet32())),
}


def data(shape, count=IMAGES):
    """Returns (uint8[count, H, W, C] random images, int32[count] labels)."""
    import numpy as np

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, *shape), np.uint8)
    return images, rng.integers(0, CLASSES, count).astype(np.int32)


def ready(shape, count=IMAGES):
    """Returns the same with images float32 and scaled, as peers keep them."""
    images, labels = data(shape, count)
    return (images.astype("float32") / 255 - 0.5) / 0.25, labels


def batches(permute):
    """Yields the indices of each batch, epoch after epoch; permute(n) shuffles n of them."""
    while True:
        order = permute(IMAGES)
        for start in range(0, IMAGES, BATCH):
            yield order[start : start + BATCH]
