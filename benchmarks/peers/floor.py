"""The floor under a step: its products and its bytes, by what this machine reaches of each."""

import functools
import math
import statistics
import time

import networks


def machine():
    """Returns this machine's matrix-product peak in FLOP/s and memory bandwidth in bytes/s."""
    import jax
    import jax.numpy as jnp

    from hcjax.training import compiler

    a = jnp.ones((2048, 2048))
    peaks = []
    for options in ({}, compiler.options()):
        product = jax.jit(lambda a, b: a @ b, compiler_options=options)
        peaks.append(2 * 2048**3 / _seconds(lambda f=product: f(a, a)))
    x = jnp.ones(2**26)  # 256 MiB: no cache holds it
    add = jax.jit(lambda x: x + 1, donate_argnums=0)

    def once():
        nonlocal x
        x = add(x)
        return x

    return {"flops": max(peaks), "bytes": 2 * x.nbytes / _seconds(once)}


def _seconds(call):
    import jax

    times = []
    for _ in range(12):
        begin = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - begin)
    return statistics.median(times[2:])


def text(found):
    """Returns what `machine` found, for people."""
    return (
        f"matrix products {found['flops'] / 1e9:.0f} GFLOP/s, "
        f"memory {found['bytes'] / 1e9:.1f} GB/s, float32"
    )


def images_per_second(name, mode, found):
    """Returns the most that products and bytes allow.

    A forward pass: 2 FLOPs per MAC; every layer's output written and read once, every parameter
    read once. Training: three times the FLOPs, less the gradient of the images; each output
    written, read twice and its gradient written and read; parameters read twice, gradient and
    update moved once each way.
    """
    cost, pixels = _cost(name), math.prod(networks.WORKS[name].shape)
    batch = 1 if mode == "latency" else networks.BATCH
    outputs = sum(row.activation_bytes for row in cost.rows)
    flops, moved = 2 * cost.macs, 2 * outputs + 4 * pixels
    weights = cost.weight_bytes
    if mode == "training":
        flops = 3 * flops - 2 * cost.rows[0].macs
        moved, weights = 5 * outputs + 4 * pixels, 6 * weights
    bytes_moved = batch * moved + weights
    seconds = max(batch * flops / found["flops"], bytes_moved / found["bytes"])
    return batch / seconds


@functools.cache
def _cost(name):
    """Returns hcjax.cost of the folded network."""
    import jax
    import jax.numpy as jnp

    import hcjax

    work = networks.WORKS[name]
    network = hcjax.models.create(work.name, input_shape=work.shape, num_classes=networks.CLASSES)
    params, state = network.init(jax.random.key(0))
    apply = hcjax.inference(network.apply, state)
    return hcjax.cost(hcjax.fold(hcjax.trace(apply, params, jnp.zeros((1, *work.shape)))))
