"""hcjax: the step that `fit` takes, on the batches that `fit` takes; folded networks to infer."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import jax
import networks
import numpy as np
import optax

import hcjax
from hcjax.data import batches
from hcjax.data.dataset import Split
from hcjax.training import parallel
from hcjax.training.steps import make_steps


def make(name, mode, variant):
    """Returns (run(count), images per call, facts)."""
    del variant
    if mode == "latency":  # else each call waits for a thread to take it: 30 µs
        jax.config.update("jax_cpu_enable_async_dispatch", False)
    work = networks.WORKS[name]
    images, labels = networks.data(work.shape)
    network = hcjax.models.create(work.name, input_shape=work.shape, num_classes=networks.CLASSES)
    params, state = network.init(jax.random.key(0))
    facts = {"jax": jax.__version__, "parameters": hcjax.trees.num_parameters(params)}
    channels = work.shape[-1]
    mean, std = np.full(channels, 0.5, np.float32), np.full(channels, 0.25, np.float32)
    if mode != "training":
        batch = 1 if mode == "latency" else networks.BATCH
        x = jax.numpy.asarray(networks.ready(work.shape, batch)[0])
        apply = hcjax.inference(network.apply, state)
        model = hcjax.fold(hcjax.trace(apply, params, x))
        predict = hcjax.tune(lambda x: model.apply(model.params, x), x)
        facts["macs"] = hcjax.cost(model).macs

        def infer(count):
            for _ in range(count):
                predict(x).block_until_ready()

        return infer, batch, facts

    tx = optax.adam(1e-3) if work.optimizer == "adam" else optax.sgd(0.01, momentum=0.9)
    train_step, _ = make_steps(
        network.apply,
        loss=hcjax.losses.cross_entropy,
        tx=tx,
        mean=mean,
        std=std,
        num_classes=networks.CLASSES,
    )
    step = parallel.train(train_step, accelerate=True)
    stream = batches.train_batches(Split(images, labels), seed=0, batch_size=networks.BATCH)
    now, key = hcjax.init_state(params, state, tx), jax.random.key(1)

    def train(count):
        nonlocal now
        for _ in range(count):
            now, sums = step(now, parallel.shard(next(stream)), key)
        jax.block_until_ready(sums)

    return train, networks.BATCH, facts
