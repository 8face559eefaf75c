"""Training steps not written for `hcjax.accelerate`, in four libraries, and three of ours.

Each entry of STEPS gives (step, state, batch, images per call); `step(state, batch) -> state`.
LOOPS has, for a step that is several in a scan, the single one and how many of them it is.
Nothing in here is tuned: layers are the libraries' own, in their default layout.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax import nnx
from jax import lax

from benchmarks import ours
from benchmarks.ours import CLASSES


def data(batch: int, shape: tuple[int, ...]) -> dict:
    """Returns random images and labels."""
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.standard_normal((batch, *shape)), jnp.float32)
    return {"inputs": images, "labels": jnp.asarray(rng.integers(0, CLASSES, batch))}


def classify(logits: jax.Array, batch: dict) -> jax.Array:
    """Returns the mean cross-entropy."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"]).mean()


def sgd(loss: Callable, params: Any, extra: Any = None) -> tuple[Callable, Any]:
    """Returns (step, state) of momentum SGD; loss(params, extra, batch) -> (value, new extra)."""
    tx = optax.sgd(0.01, momentum=0.9)

    def step(state, batch):
        params, extra, moments = state
        grads, extra = jax.grad(loss, has_aux=True)(params, extra, batch)
        updates, moments = tx.update(grads, moments, params)
        return optax.apply_updates(params, updates), extra, moments

    return step, (params, extra, tx.init(params))


def linen(module: nn.Module, shape: tuple[int, ...], batch: int, target: Callable = classify):
    """Returns a step of a Linen module, BatchNorm's statistics updated."""
    examples = data(batch, shape)
    variables = module.init(jax.random.key(0), examples["inputs"][:1])
    params, statistics = variables["params"], {k: v for k, v in variables.items() if k != "params"}

    def loss(params, statistics, batch):
        out, new = module.apply(
            {"params": params, **statistics}, batch["inputs"], mutable=list(statistics)
        )
        return target(out, batch), new

    return *sgd(loss, params, statistics), examples, batch


class Block(nn.Module):
    """The basic block of ResNet-18."""

    width: int
    stride: int = 1

    @nn.compact
    def __call__(self, x):
        def norm(y):
            return nn.BatchNorm(use_running_average=False)(y)

        strides = (self.stride, self.stride)
        y = nn.relu(norm(nn.Conv(self.width, (3, 3), strides, use_bias=False)(x)))
        y = norm(nn.Conv(self.width, (3, 3), use_bias=False)(y))
        if x.shape != y.shape:
            x = norm(nn.Conv(self.width, (1, 1), strides, use_bias=False)(x))
        return nn.relu(x + y)


class ResNet18(nn.Module):
    """ResNet-18 as in Flax's examples: 7 x 7 stem, overlapping max-pool."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(64, (7, 7), (2, 2), use_bias=False)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=False)(x))
        x = nn.max_pool(x, (3, 3), (2, 2), padding="SAME")
        for width, stride in ((64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1)):
            x = Block(width, stride)(x)
        x = Block(512)(Block(512, 2)(x))
        return nn.Dense(CLASSES)(x.mean((1, 2)))


class UNet(nn.Module):
    """A small U-Net: max-pools down, transposed convolutions up, concatenations across."""

    @nn.compact
    def __call__(self, x):
        kept, conv = [], lambda x, width: nn.relu(nn.Conv(width, (3, 3))(x))
        for width in (16, 32, 64):
            x = conv(conv(x, width), width)
            kept.append(x)
            x = nn.max_pool(x, (2, 2), (2, 2))
        x = conv(x, 128)
        for width in (64, 32, 16):
            x = nn.ConvTranspose(width, (2, 2), (2, 2))(x)
            x = conv(jnp.concatenate([x, kept.pop()], -1), width)
        return nn.Conv(3, (1, 1))(x)


class Autoencoder(nn.Module):
    """Strided convolutions down, transposed convolutions up."""

    @nn.compact
    def __call__(self, x):
        for width in (16, 32, 64):
            x = nn.relu(nn.Conv(width, (3, 3), (2, 2))(x))
        for width in (32, 16):
            x = nn.relu(nn.ConvTranspose(width, (3, 3), (2, 2))(x))
        return nn.ConvTranspose(3, (3, 3), (2, 2))(x)


class SmallCNN(nn.Module):
    """Two convolutions with max-pools, as in Flax's MNIST example."""

    @nn.compact
    def __call__(self, x):
        for width in (32, 64):
            x = nn.max_pool(nn.relu(nn.Conv(width, (3, 3))(x)), (2, 2), (2, 2))
        x = nn.relu(nn.Dense(256)(x.reshape(x.shape[0], -1)))
        return nn.Dense(CLASSES)(x)


def rebuild(out: jax.Array, batch: dict) -> jax.Array:
    """Returns the mean squared distance to the images."""
    return ((out - batch["inputs"]) ** 2).mean()


def small_cnn():
    """One step of the CNN that `scanned` repeats."""
    return linen(SmallCNN(), (28, 28, 1), 128)


def scanned():
    """Four steps in one compiled loop."""
    step, state, batch, count = small_cnn()
    batches = jax.tree.map(lambda x: jnp.stack([x] * 4), batch)
    return (
        lambda s, b: lax.scan(lambda s, b: (step(s, b), None), s, b)[0],
        state,
        batches,
        4 * count,
    )


def haiku(make: Callable, shape: tuple[int, ...], batch: int):
    """Returns a step of a Haiku network."""
    net = hk.without_apply_rng(hk.transform_with_state(lambda x: make()(x, is_training=True)))
    examples = data(batch, shape)
    params, statistics = net.init(jax.random.key(0), examples["inputs"])

    def loss(params, statistics, batch):
        logits, new = net.apply(params, statistics, batch["inputs"])
        return classify(logits, batch), new

    return *sgd(loss, params, statistics), examples, batch


def equinox():
    """A CNN over NCHW images under vmap."""
    keys = jax.random.split(jax.random.key(0), 3)
    layers = [
        eqx.nn.Conv2d(3, 32, 3, padding=1, key=keys[0]),
        jax.nn.relu,
        eqx.nn.MaxPool2d(2, 2),
        eqx.nn.Conv2d(32, 64, 3, padding=1, key=keys[1]),
        jax.nn.relu,
        eqx.nn.MaxPool2d(2, 2),
        jnp.ravel,
        eqx.nn.Linear(64 * 64, CLASSES, key=keys[2]),
    ]
    params, static = eqx.partition(layers, eqx.is_array)

    def loss(params, extra, batch):
        def one(x):
            for layer in eqx.combine(params, static):
                x = layer(x)
            return x

        return classify(jax.vmap(one)(batch["inputs"]), batch), extra

    return *sgd(loss, params), data(128, (3, 32, 32)), 128


class NnxCNN(nnx.Module):
    """Two convolutions with BatchNorm and average pools."""

    def __init__(self, rngs):
        self.conv1 = nnx.Conv(3, 32, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(32, rngs=rngs)
        self.conv2 = nnx.Conv(32, 64, (3, 3), rngs=rngs)
        self.dense = nnx.Linear(64 * 64, CLASSES, rngs=rngs)

    def __call__(self, x):
        x = nnx.max_pool(nnx.relu(self.norm(self.conv1(x))), (2, 2), (2, 2))
        x = nnx.avg_pool(nnx.relu(self.conv2(x)), (2, 2), (2, 2))
        return self.dense(x.reshape(x.shape[0], -1))


def nnx_cnn():
    """An NNX network, split into parameters and the rest."""
    definition, params, rest = nnx.split(NnxCNN(nnx.Rngs(0)), nnx.Param, ...)

    def loss(params, rest, batch):
        net = nnx.merge(definition, params, rest, copy=True)
        logits = net(batch["inputs"])
        return classify(logits, batch), nnx.split(net, nnx.Param, ...)[2]

    return *sgd(loss, params, rest), data(128, (32, 32, 3)), 128


def own(name: str, shape: tuple[int, ...], batch: int = 128):
    """One of our own networks, with the step that `fit` uses."""
    return *ours.step(name, shape), ours.batch(shape, batch), batch


STEPS = {
    "seed CNN": lambda: own("mnist_cnn", (28, 28, 1)),
    "LeNet-5": lambda: own("lenet5", (28, 28, 1)),
    "ResNet-20": lambda: own("resnet20", (32, 32, 3)),
    "ResNet-110, batch 16": lambda: own("resnet110", (32, 32, 3), 16),
    "Flax ResNet-18, 64 x 64": lambda: linen(ResNet18(), (64, 64, 3), 32),
    "Haiku ResNet-18, 64 x 64": lambda: haiku(lambda: hk.nets.ResNet18(CLASSES), (64, 64, 3), 32),
    "Haiku MobileNet, 64 x 64": lambda: haiku(
        lambda: hk.nets.MobileNetV1(num_classes=CLASSES), (64, 64, 3), 32
    ),
    "Equinox CNN": equinox,
    "NNX CNN": nnx_cnn,
    "U-Net, 64 x 64": lambda: linen(UNet(), (64, 64, 3), 16, rebuild),
    "autoencoder, 64 x 64": lambda: linen(Autoencoder(), (64, 64, 3), 64, rebuild),
    "Linen CNN": small_cnn,
    "scanned CNN, 4 steps": scanned,
}
LOOPS = {"scanned CNN, 4 steps": (small_cnn, 4)}
