"""hcjax: the step that `fit` takes, on the batches that `fit` takes; folded networks to infer.

Variant bf16 computes in bfloat16, with parameters in float32, as `config.model.dtype` says.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import jax
import networks
import optax

import hcjax
from benchmarks import ours
from hcjax.data import batches
from hcjax.data.dataset import Split
from hcjax.train import parallel


def make(name, mode, variant):
    """Returns (run(count), images per call, facts)."""
    if mode == "latency":  # else each call waits for a thread to take it: 30 µs
        jax.config.update("jax_cpu_enable_async_dispatch", False)
    work = networks.WORKS[name]
    images, labels = networks.data(work.shape)
    dtype = "bfloat16" if variant == "bf16" else "float32"
    network = hcjax.models.create(
        work.name, input_shape=work.shape, num_classes=networks.CLASSES, dtype=dtype
    )
    params, state = network.init(jax.random.key(0))
    facts = {"jax": jax.__version__, "parameters": hcjax.trees.num_parameters(params)}
    if mode != "training":
        batch = 1 if mode == "latency" else networks.BATCH
        x = jax.numpy.asarray(networks.ready(work.shape, batch)[0])
        # as they start, biases are zeros, which the compiler would leave out
        leaves, tree = jax.tree.flatten((params, state))
        keys = jax.random.split(jax.random.key(1), len(leaves))
        noisy = [
            v + 0.05 * jax.random.uniform(k, v.shape) for k, v in zip(keys, leaves, strict=True)
        ]
        params, state = jax.tree.unflatten(tree, noisy)
        apply = hcjax.inference(network.apply, state)
        model = hcjax.fold(hcjax.trace(apply, params, x))
        predict = hcjax.tune(lambda x: model.apply(model.params, x), x)

        def infer(count):
            for _ in range(count):
                predict(x).block_until_ready()

        return infer, batch, facts

    tx = optax.adam(1e-3) if work.optimizer == "adam" else optax.sgd(0.01, momentum=0.9)
    train_once = ours.trainer(network, work.shape, tx=tx)
    stream = batches.train_batches(Split(images, labels), seed=0, batch_size=networks.BATCH)

    def train(count):
        for _ in range(count):
            sums = train_once(parallel.shard(next(stream)))
        jax.block_until_ready(sums)

    return train, networks.BATCH, facts
