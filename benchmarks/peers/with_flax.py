"""Plain Flax Linen, as in Flax's own examples: a module, a TrainState, one jitted step."""

import jax
import jax.numpy as jnp
import networks
import numpy as np
import optax
from flax import linen as nn


class Network(nn.Module):
    """The layers of a work."""

    layers: tuple

    @nn.compact
    def __call__(self, x, train):
        def norm(y):
            return nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5)(y)

        for kind, *args in self.layers:
            if kind == "conv":
                outputs, size, stride, padding, bias = args
                strides = (stride, stride)
                x = nn.Conv(outputs, (size, size), strides, padding.upper(), use_bias=bias)(x)
            elif kind == "norm":
                x = norm(x)
            elif kind == "relu":
                x = nn.relu(x)
            elif kind in ("max_pool", "avg_pool"):
                size, stride = args
                window, strides = (size, size), (stride, stride)
                if kind == "max_pool":
                    x = nn.max_pool(x, window, strides, "SAME" if size == 3 else "VALID")
                else:
                    x = nn.avg_pool(x, window, strides, "SAME", count_include_pad=False)
            elif kind == "block":
                outputs, stride = args
                strides, pads = (stride, stride), [(1, 1), (1, 1)]
                y = nn.Conv(outputs, (3, 3), strides, pads, use_bias=False)(x)
                y = nn.Conv(outputs, (3, 3), use_bias=False)(nn.relu(norm(y)))
                if stride != 1:
                    more = outputs - x.shape[-1]
                    x = jnp.pad(x[:, ::stride, ::stride], [(0, 0), (0, 0), (0, 0), (0, more)])
                x = nn.relu(x + norm(y))
            elif kind == "mean":
                x = x.mean((1, 2))
            elif kind == "flatten":
                x = x.reshape(x.shape[0], -1)
            elif kind == "dense":
                x = nn.Dense(args[0])(x)
            elif kind == "dropout":
                x = nn.Dropout(args[0], deterministic=not train)(x)
        return x


def make(name, mode, variant):
    """Returns (run(count), images per call, facts)."""
    del variant
    work = networks.WORKS[name]
    net = Network(work.layers)
    images, labels = networks.ready(work.shape)
    variables = net.init(jax.random.key(0), images[:1], train=False)
    params = variables["params"]
    statistics = {k: v for k, v in variables.items() if k != "params"}
    count = sum(x.size for x in jax.tree.leaves(params))
    facts = {"jax": jax.__version__, "parameters": count}
    if mode != "training":
        batch = 1 if mode == "latency" else networks.BATCH
        x = jnp.asarray(images[:batch])
        predict = jax.jit(lambda v, x: net.apply(v, x, train=False))

        def infer(count):
            for _ in range(count):
                predict(variables, x).block_until_ready()

        return infer, batch, facts

    tx = optax.adam(1e-3) if work.optimizer == "adam" else optax.sgd(0.01, momentum=0.9)

    @jax.jit
    def step(params, statistics, moments, x, y, key):
        def loss(params):
            logits, new = net.apply(
                {"params": params, **statistics},
                x,
                train=True,
                mutable=list(statistics),
                rngs={"dropout": key},
            )
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), new

        (value, new), grads = jax.value_and_grad(loss, has_aux=True)(params)
        updates, moments = tx.update(grads, moments, params)
        return optax.apply_updates(params, updates), new, moments, value

    moments, key = tx.init(params), jax.random.key(1)
    batches = networks.batches(np.random.default_rng(0).permutation)

    def train(count):
        nonlocal params, statistics, moments, key
        for _ in range(count):
            index = next(batches)
            key, now = jax.random.split(key)
            params, statistics, moments, value = step(
                params, statistics, moments, images[index], labels[index], now
            )
        value.block_until_ready()

    return train, networks.BATCH, facts
