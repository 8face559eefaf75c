"""The floor under a step: its products and its bytes, by what this machine reaches of each."""

import functools
import math
import time

import networks

SIDES = (768, 1024, 1536, 2048)  # of square matrices
LENGTHS = (2**22, 2**24, 2**26)  # float32: 16 to 256 MiB; a layer's results lie in that range
SECONDS = 0.4  # of each


def machine():
    """Returns the most that this machine reaches: FLOP/s of matrix products and bytes/s of memory.

    A floor is what nothing gets below, so of all sizes, compilers and repetitions the fastest
    counts, not a typical one.
    """
    from hcjax.accelerate import compiler

    ways = [(side, options) for side in SIDES for options in ({}, compiler.probed())]
    return {
        "flops": max(_product(side, options) for side, options in ways),
        "bytes": max(_pass(length) for length in LENGTHS),
    }


def faster(one, other):
    """Returns the most of two measurements by `machine`."""
    return {name: max(one[name], other[name]) for name in one}


def _product(side, options):
    """Returns FLOP/s of a product of square matrices."""
    import jax
    import jax.numpy as jnp

    a = jnp.ones((side, side))
    product = jax.jit(lambda a, b: a @ b, compiler_options=options)
    return 2 * side**3 / _seconds(lambda: product(a, a))


def _pass(length):
    """Returns bytes/s of reading and writing an array."""
    import jax
    import jax.numpy as jnp

    x = jnp.ones(length)
    size = x.nbytes
    add = jax.jit(lambda x: x + 1, donate_argnums=0)

    def once():
        nonlocal x
        x = add(x)
        return x

    return 2 * size / _seconds(once)


def _seconds(call):
    """Returns the least time of a call."""
    import jax

    jax.block_until_ready(call())  # compiles
    times = []
    while sum(times) < SECONDS or len(times) < 5:
        begin = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - begin)
    return min(times)


def text(found):
    """Returns what `machine` found, for people."""
    return (
        f"matrix products {found['flops'] / 1e9:.0f} GFLOP/s, "
        f"memory {found['bytes'] / 1e9:.1f} GB/s, float32"
    )


def images_per_second(name, mode, found):
    """Returns the most that products and bytes allow.

    A forward pass: 2 FLOPs per MAC that is not with padding; every layer's output written and read
    once, every parameter read once. Training: three times the FLOPs, less the gradient of the
    images; each output written, read twice and its gradient written and read; parameters read
    twice, gradient and update moved once each way.
    """
    (cost, macs), pixels = _cost(name), math.prod(networks.WORKS[name].shape)
    batch = 1 if mode == "latency" else networks.BATCH
    outputs = sum(row.activation_bytes for row in cost.rows)
    flops, moved = 2 * sum(macs), 2 * outputs + 4 * pixels
    weights = cost.weight_bytes
    if mode == "training":
        flops = 3 * flops - 2 * macs[0]
        moved, weights = 5 * outputs + 4 * pixels, 6 * weights
    bytes_moved = batch * moved + weights
    seconds = max(batch * flops / found["flops"], bytes_moved / found["bytes"])
    return batch / seconds


@functools.cache
def _cost(name):
    """Returns (hcjax.cost of the folded network, the MACs of each row without padding's)."""
    import jax
    import jax.numpy as jnp

    import hcjax
    from hcjax.accelerate.rules import canonical
    from hcjax.core import walker

    work = networks.WORKS[name]
    network = hcjax.models.create(work.name, input_shape=work.shape, num_classes=networks.CLASSES)
    params, state = network.init(jax.random.key(0))
    images = jnp.zeros((1, *work.shape))
    model = hcjax.fold(hcjax.trace(hcjax.inference(network.apply, state), params, images))
    kind, cost = "conv_general_dilated", hcjax.cost(model)
    equations = walker.equations(jax.make_jaxpr(model.apply)(model.params, images))
    inside = iter([_inside(canonical.conv(e)) for e, _ in equations if e.primitive.name == kind])
    return cost, [row.macs * (next(inside) if row.kind == kind else 1) for row in cost.rows]


def _inside(c):
    """Returns the part of a convolution's products whose pixel is not padding.

    Kernels leave the others out: of 3 x 3 taps over 8 x 8 pixels a sixth.
    """
    import numpy as np

    part = 1.0
    axes = zip(c.image[1:-1], c.out[1:-1], c.kernel, c.strides, c.padding, strict=False)
    for size, outputs, taps, stride, (low, _) in axes:
        places = np.add.outer(stride * np.arange(outputs) - low, np.arange(taps))
        part *= ((places >= 0) & (places < size)).mean()
    return part
