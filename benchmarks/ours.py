"""hcjax's own training steps on random images, for benchmarks and for tests that read programs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import optax

import hcjax
from hcjax.train import parallel
from hcjax.train.assembly import make_steps

CLASSES = 10


def data(shape: Sequence[int], count: int, classes: int = CLASSES) -> tuple[np.ndarray, np.ndarray]:
    """Returns (uint8[count, H, W, C] random images, int32[count] labels)."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, *shape), np.uint8)
    return images, rng.integers(0, classes, count).astype(np.int32)


def batch(shape: Sequence[int], count: int, classes: int = CLASSES) -> dict:
    """Returns the same as a batch that a step takes."""
    images, labels = data(shape, count, classes)
    return {"inputs": images, "labels": labels, "position": np.arange(count, dtype=np.int32)}


def step(name: str, shape: Sequence[int]) -> tuple[Callable, Any]:
    """Returns (step(state, batch) -> state, state) of momentum SGD, not mapped, not rewritten."""
    network = hcjax.models.create(name, input_shape=shape)
    params, statistics = network.init(jax.random.key(0))
    tx = optax.sgd(0.01, momentum=0.9)
    mean, std = np.zeros(shape[-1], np.float32), np.ones(shape[-1], np.float32)
    prepare = hcjax.data.make_prepare(mean=mean, std=std, num_classes=CLASSES)
    loss_fn = hcjax.make_loss_fn(network.apply, hcjax.losses.cross_entropy)
    train = hcjax.make_train_step(loss_fn, tx, prepare=prepare)
    state = hcjax.init_state(params, statistics, tx)
    return lambda s, b: train(s, b, jax.random.key(1))[0], state


def trainer(
    network: hcjax.models.Network,
    shape: Sequence[int],
    *,
    tx: optax.GradientTransformation,
    classes: int = CLASSES,
) -> Callable[[dict], dict]:
    """Returns train(sharded batch) -> sums: one step as `fit` takes it; the state is kept."""
    mean = np.full(shape[-1], 0.5, np.float32)
    facts = {"mean": mean, "std": mean / 2, "num_classes": classes}
    loss = hcjax.losses.cross_entropy
    run = parallel.train(make_steps(network.apply, loss=loss, tx=tx, **facts)[0], accelerate=True)
    state, key = hcjax.init_state(*network.init(jax.random.key(0)), tx), jax.random.key(1)

    def train(sharded):
        nonlocal state
        state, sums = run(state, sharded, key)
        return sums

    return train
