"""Runs the sharded steps on 1, 2 and 8 forced host devices and prints what came out as JSON.

A program of its own, because the number of devices is fixed when jax starts; `test_parallel.py`
runs its parts, whose names are the arguments, and asserts.
"""

import json
import os
import sys

if __name__ == "__main__":  # or the other tests of a process that looks for doctests inherit it
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hcjax import data, losses, models, prune, trees
from hcjax.models.norm import batch_norm
from hcjax.train import evaluation, parallel, step

COUNTS = (1, 2, 8)


def batches(split, steps, batch_size):
    stream = data.train_batches(split, seed=3, batch_size=batch_size, stop=steps)
    return list(stream)


def trainer(network, devices, *, augment=(), ema=None, weights=None, tx=None):
    """Returns a function from batches to the TrainState after them, on that many devices."""
    params, state = network.init(jax.random.key(0))
    tx = tx or optax.sgd(0.05, momentum=0.9)
    prepare = data.make_prepare(mean=[0.13], std=[0.31], num_classes=10, augment=augment)
    loss_fn = step.make_loss_fn(network.apply, losses.cross_entropy, class_weights=weights)
    train_step = parallel.train(
        step.make_train_step(loss_fn, tx, prepare=prepare, ema_decay=ema, devices=parallel.DEVICES),
        devices=jax.devices()[:devices],
    )

    def run(batch_list):
        train_state = step.init_state(params, state, tx, ema=ema is not None)
        for batch in batch_list:
            sharded = parallel.shard(batch, devices)
            train_state, _ = train_step(train_state, sharded, jax.random.key(1))
        return parallel.to_host(train_state)

    return run


def largest_difference(a, b):
    gaps = jax.tree.map(lambda x, y: float(np.max(np.abs(x - y), initial=0)), a, b)
    return max(jax.tree.leaves(gaps), default=0.0)


def agreement(network, batch_list, *, on=COUNTS, **options):
    """Returns the largest difference of parameters and statistics from one device's."""
    states = [trainer(network, count, **options)(batch_list) for count in on]
    first, others = states[0], states[1:]
    gap = [
        max(largest_difference(first.params, s.params), largest_difference(first.state, s.state))
        for s in others
    ]
    moved = largest_difference(first.params, network.init(jax.random.key(0))[0])
    return {"gap": max(gap), "moved": moved}


def normed():
    """Returns a small network with one BatchNorm over the pixels, each device's its own."""

    def init(key):
        norm = {"scale": jnp.ones(1), "bias": jnp.zeros(1)}
        params = {"norm": norm, "kernel": 0.01 * jax.random.normal(key, (784, 10))}
        return params, {"mean": jnp.zeros(1), "variance": jnp.ones(1)}

    def apply(params, state, images, *, train, key):
        x, state = batch_norm(params["norm"], state, images, train=train)
        return x.reshape(len(x), -1) @ params["kernel"], state

    return models.Network(init, apply)


def connections(batch_list):
    """Returns what RigL's masks are after training on 1 and 2 devices, and before."""
    tx = prune.rigl(optax.sgd(0.05), sparsity=0.8, key=jax.random.key(2), every=2)
    network = models.create("mlp_tiny")
    states = [trainer(network, count, tx=tx)(batch_list) for count in (1, 2)]
    start = tx.init(network.init(jax.random.key(0))[0]).masks
    return {
        "fingerprints": [trees.sha256(state.opt_state.masks) for state in states],
        "moved": trees.sha256(start) != trees.sha256(states[0].opt_state.masks),
        "weights": [
            sum(int(m.sum()) for m in jax.tree.leaves(masks))
            for masks in (start, *(state.opt_state.masks for state in states))
        ],
    }


def statistics(batch):
    """Returns running statistics of a step on 2 devices, and what NumPy makes of 1 and 2 shards."""
    found = trainer(normed(), 2)([batch]).state
    x = (batch["inputs"].astype(np.float64) / 255 - 0.13) / 0.31

    def running(shards):
        shards = x.reshape(shards, -1)
        return {"mean": 0.1 * shards.mean(), "variance": 0.9 + 0.1 * shards.var(1).mean()}

    return {
        "found": {name: float(value[0]) for name, value in found.items()},
        "per_shard": running(2),
        "whole": running(1),
    }


def bits(network, batch_list, **options):
    """Returns the fingerprints of two runs on 8 devices."""
    run = trainer(network, 8, **options)
    return [trees.sha256(run(batch_list)) for _ in range(2)]


def keys():
    """Returns the keys that 8 devices draw their dropout from."""
    draw = jax.pmap(
        lambda key, _: jax.random.key_data(parallel.DEVICES.key(key)),
        parallel.AXIS,
        in_axes=(None, 0),
    )
    return np.asarray(draw(jax.random.key(5), np.zeros(8))).tolist()


def counts():
    """Returns what evaluation counted, and what NumPy counts, for sizes × batches × devices."""
    rng = np.random.default_rng(0)
    prepare = data.make_prepare(mean=[0.5], std=[0.5], num_classes=3)
    apply = lambda params, state, x, *, train, key: (x.reshape(len(x), -1)[:, :3] * params, state)
    rows = []
    for devices in COUNTS:
        eval_step = parallel.evaluate(
            evaluation.make_eval_step(apply, prepare=prepare, devices=parallel.DEVICES),
            devices=jax.devices()[:devices],
        )
        for size in (1, 7, 33):
            images = rng.integers(0, 256, (size, 2, 2, 1), np.uint8)
            labels = rng.integers(0, 3, size).astype(np.int32)
            right = int((images.reshape(size, -1)[:, :3].argmax(-1) == labels).sum())
            for batch_size in (8, 24):
                scored = evaluation.run_eval(
                    eval_step,
                    jnp.float32(1.0),
                    {},
                    data.Split(images, labels),
                    batch_size=batch_size,
                    count=devices,
                )
                rows.append(
                    {
                        "size": size,
                        "count": int(scored.sums["count"]),
                        "correct": int(scored.sums["correct"]),
                        "right": right,
                        "confusion": int(scored.sums["confusion"].sum()),
                        "index": sorted(scored.each["index"].tolist()),
                    }
                )
    return rows


def main(names):
    split = data.load("mnist", limit=512).train
    lenet, resnet = models.create("lenet5"), models.create("resnet8", axis_name=parallel.AXIS)
    dropout = models.create("lenet5_tiny", dropout=0.5)
    few = batches(split, 2, 16)
    weights = jnp.asarray(np.linspace(0.1, 3.0, 10), jnp.float32)
    everything = {"augment": [("affine", {}), ("mixup", {})], "ema": 0.9}
    mixed = list(data.train_batches(split, seed=3, batch_size=16, stop=2, partners=True))
    parts = {
        "lenet": lambda: agreement(lenet, few, augment=[("affine", {}), ("noise", {})]),
        "resnet_sync": lambda: agreement(resnet, few),
        "class_weights": lambda: agreement(
            models.create("mlp_tiny"), few, on=(1, 8), weights=weights
        ),
        "bits": lambda: bits(dropout, mixed, **everything),
        "norm_bits": lambda: bits(normed(), mixed, **everything),
        "statistics": lambda: statistics(few[0]),
        "keys": keys,
        "counts": counts,
        "connections": lambda: connections(batches(split, 5, 16)),
    }
    print(json.dumps({name: parts[name]() for name in names}))


if __name__ == "__main__":
    main(sys.argv[1:])
