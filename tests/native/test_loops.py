"""Generated loops: the values of XLA's own operations, in every transform; what is grouped."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import hcjax
from hcjax import explain
from hcjax.accelerate import accelerate
from hcjax.accelerate.groups import grouped
from hcjax.accelerate.groups.flat import flat
from hcjax.accelerate.groups.schedule import schedule
from hcjax.models.norm import batch_norm
from hcjax.native import build, onednn
from hcjax.native import loops as loops_of_c

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(bool(onednn.missing()), reason=onednn.missing())

SHAPE = (4, 3, 8)
ODD = [0.0, -0.0, np.nan, np.inf, -np.inf, 1e-40, -1e-39, 1.0, -1.0, 2.0**-126, 3e38]


def loops(fn, *args, least=1, least_bytes=0):
    """Returns fn with all its groups as loops, and asserts that there are some."""
    run = grouped(jax.make_jaxpr(fn)(*args), least=least, least_bytes=least_bytes)
    assert run is not None
    return lambda *args: jax.tree.unflatten(
        jax.tree.structure(jax.eval_shape(fn, *args)), run(*jax.tree.leaves(args))
    )


def same_bits(a, b):
    """Asserts that two arrays are equal: -0.0 is not 0.0, NaN is NaN, a denormal number is a zero.

    XLA flushes denormal numbers in some operations and not in others.
    """
    a, b = np.asarray(a), np.asarray(b)
    assert a.dtype == b.dtype and a.shape == b.shape
    if a.dtype == np.float32:
        a, b = (np.where(np.abs(x) < 2.0**-126, np.copysign(np.float32(0), x), x) for x in (a, b))
    np.testing.assert_array_equal(a, b)
    if a.dtype == np.float32:
        number = ~np.isnan(a)
        np.testing.assert_array_equal(np.signbit(a[number]), np.signbit(b[number]))


UNARY = [lax.neg, lax.square, lax.abs, lax.sign, jax.nn.relu, jnp.sqrt, lax.stop_gradient,
         lambda x: x**3, jax.nn.relu6, lambda x: jnp.where(x > 0, x, 0.5 * x), jnp.copy,
         lambda x: (x != x).astype(jnp.float32), lambda x: jnp.clip(x, -0.5, 1.5),
         lambda x: x.astype(bool).astype(jnp.float32)]  # fmt: skip
BINARY = [lax.add, lax.sub, lax.mul, lax.div, lax.max, lax.min,
          lambda x, y: jnp.where(x > y, x, y), lambda x, y: jnp.where((x <= 0) & ~(y == x), y, x),
          lambda x, y: jnp.where((x >= y) | (x < 0) ^ (y != 0), x, -y)]  # fmt: skip


def pairs():
    """Returns two arrays with every pair of odd numbers."""
    x, y = np.meshgrid(np.array(ODD, np.float32), np.array(ODD, np.float32))
    fill = -x.size % 8
    return [jnp.asarray(np.pad(v.ravel(), (0, fill)).reshape(-1, 8)) for v in (x, y)]


@pytest.mark.parametrize("several", [UNARY, BINARY], ids=["unary", "binary"])
def test_each_operation_has_the_bits_of_xla_for_odd_numbers_too(several):
    args = pairs()[: 1 if several is UNARY else 2]
    fn = lambda *args: [op(*args) for op in several]
    for ours, op in zip(jax.jit(loops(fn, *args))(*args), several, strict=True):
        same_bits(ours, op(*args))


def random_program(seed):
    """Returns a function of arrays, vectors and a scalar, made of random operations."""

    def fn(x, y, flag, v, w, s):
        rng = np.random.default_rng(seed)
        full, small, results = [x, y], [v, w, s, jnp.float32(0.75)], []
        masks = [flag]
        for _ in range(rng.integers(6, 30)):
            pick = lambda among: among[rng.integers(len(among))]
            kind = rng.integers(9)
            if kind == 0:
                full.append(pick([lax.neg, lax.square, lax.abs, jax.nn.relu])(pick(full)))
            elif kind in (1, 2):
                full.append(pick([jnp.add, jnp.subtract, jnp.multiply, jnp.maximum])(
                    pick(full), pick(full)))  # fmt: skip
            elif kind == 3:
                full.append(pick([jnp.add, jnp.multiply, jnp.subtract])(pick(full), pick(small)))
            elif kind == 4:
                full.append(jnp.where(pick(masks), pick(full), pick(full)))
            elif kind == 5:
                masks.append(pick([jnp.greater, jnp.less])(pick(full), pick([0.0, pick(full)])))
            elif kind == 6:
                small.append(pick(full).sum((0, 1)) * 0.1)
            elif kind == 7:  # an array that is in memory
                full.append(lax.optimization_barrier(pick(full)))
            else:
                results.append(pick([*full, *masks, *small]))
        return results, full[-1], small[-1]

    return fn


def arguments(seed=0):
    rng = np.random.default_rng(seed)
    x, y = (jnp.asarray(rng.standard_normal(SHAPE), jnp.float32) for _ in range(2))
    v, w = (jnp.asarray(rng.standard_normal(SHAPE[-1]), jnp.float32) for _ in range(2))
    return x, y, x > y, v, w, jnp.float32(-1.5)


def close(a, b):
    scale = max(1.0, float(np.nan_to_num(np.abs(np.asarray(b, np.float64))).max(initial=0)))
    np.testing.assert_allclose(
        np.asarray(a, np.float64) / scale, np.asarray(b, np.float64) / scale, atol=1e-5
    )


@pytest.mark.parametrize("seed", range(6))
def test_random_programs_have_the_same_values(seed):
    fn, args = random_program(seed), arguments(seed)
    ours = jax.jit(loops(fn, *args))(*args)
    jax.tree.map(close, ours, fn(*args))
    jax.tree.map(np.testing.assert_array_equal, ours, jax.jit(loops(fn, *args))(*args))


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def layer(x, r, v, w):
    """BatchNorm, a residual branch and relu; two results, one of them bool."""
    mean = x.mean((0, 1))
    y = jax.nn.relu((x - mean) * v * lax.rsqrt(jnp.square(x).mean((0, 1)) - mean**2 + 0.1) + w + r)
    return lax.optimization_barrier((y, y > 0.5)), mean


LAYER = normal(*SHAPE), normal(*SHAPE, seed=1), normal(8, seed=2), normal(8, seed=3)


def loss(fn):
    return lambda *args: (fn(*args)[0][0] ** 3).sum() + fn(*args)[1].sum()


OUTSIDE = {
    "nothing": lambda f: f,
    "grad": lambda f: jax.grad(loss(f), (0, 1, 2, 3)),
    "jvp": lambda f: lambda *a: jax.jvp(loss(f), a, a),
    "hessian": lambda f: jax.jacfwd(jax.grad(loss(f), 2), 2),
    "vmap": lambda f: (
        lambda *a: jax.vmap(f, (0, None, None, 0))(
            *(jnp.stack([v, -v, 2 * v]) if i in (0, 3) else v for i, v in enumerate(a))
        )
    ),
    "vmap of grad": lambda f: (
        lambda *a: jax.vmap(jax.grad(loss(f), (0, 2)))(*(jnp.stack([v, 2 * v]) for v in a))
    ),
    "remat": lambda f: jax.grad(loss(jax.checkpoint(f)), (0, 3)),
    "scan": lambda f: (
        lambda x, r, v, w: lax.scan(
            lambda c, k: (c + 0.1 * f(c, r, v, k)[0][0], k.sum()), x, jnp.stack([w, -w])
        )
    ),
    "cond": lambda f: lambda *a: lax.cond(a[0][0, 0, 0] > 9, f, lambda *b: f(b[1], *b[1:]), *a),
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_every_transform_of_loops_gives_the_same(name):
    ours = OUTSIDE[name](loops(layer, *LAYER))
    assert "hcjax_loop" in str(jax.make_jaxpr(ours)(*LAYER))
    jax.tree.map(close, jax.jit(ours)(*LAYER), jax.jit(OUTSIDE[name](layer))(*LAYER))


def test_a_layers_derivative_is_grouped_too():
    inside = OUTSIDE["grad"](layer)
    ours = loops(inside, *LAYER)
    jax.tree.map(close, jax.jit(ours)(*LAYER), jax.jit(inside)(*LAYER))


def linen_norm():
    import flax.linen as nn

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.BatchNorm(use_running_average=False)(nn.Conv(16, (3, 3))(x))
            return nn.Conv(16, (3, 3))(nn.relu(x))

    block = Block()

    def fn(variables, x):
        y, state = block.apply(variables, x, mutable=["batch_stats"])
        return jnp.square(y).mean(), state

    return fn, block.init(jax.random.key(0), BLOCK)


def nnx_norm():
    from flax import nnx

    class Block(nnx.Module):
        def __init__(self, rngs):
            self.one, self.two = (nnx.Conv(16, 16, (3, 3), rngs=rngs) for _ in range(2))
            self.norm = nnx.BatchNorm(16, rngs=rngs)

        def __call__(self, x):
            return self.two(nnx.relu(self.norm(self.one(x))))

    graph, state = nnx.split(Block(nnx.Rngs(0)))

    def fn(state, x):
        block = nnx.merge(graph, state)
        return jnp.square(block(x)).mean(), nnx.state(block)

    return fn, state


def own_norm():
    def fn(params, x):
        y, state = batch_norm(params["norm"], STATE, x, train=True)
        y = jax.nn.relu(x + convolve(y, params["one"]))
        z, other = batch_norm(params["norm"], STATE, convolve(y, params["two"]), train=True)
        return jnp.square(convolve(jax.nn.relu(y + z), params["one"])).mean(), (state, other)

    norm = {"scale": normal(16, seed=1), "bias": normal(16, seed=2)}
    params = {"norm": norm, "one": normal(3, 3, 16, 16, seed=3), "two": normal(1, 1, 16, 16)}
    return fn, params


def own_network():
    network = hcjax.models.create("resnet8", input_shape=(8, 8, 16))
    params, state = network.init(jax.random.key(0))

    def fn(params, x):
        y, new = network.apply(params, state, x, train=True)
        return jnp.square(y).mean(), new

    return fn, params


BLOCK = normal(64, 8, 8, 16)
STATE = {"mean": jnp.zeros(16), "variance": jnp.ones(16)}
convolve = lambda x, k: lax.conv_general_dilated(
    x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
)


SLOW = [pytest.param(make, marks=pytest.mark.slow) for make in (linen_norm, own_network)]


@pytest.mark.parametrize("make", [own_norm, nnx_norm, *SLOW])
def test_a_step_of_a_network_is_the_same(make):
    fn, params = make()

    def step(params, x):
        grads, state = jax.grad(fn, has_aux=True, allow_int=True)(params, x)
        move = lambda p, g: p - 0.1 * g if p.dtype == jnp.float32 else p
        return jax.tree.map(move, params, grads), state

    ours = jax.jit(accelerate(step, platform="cpu+native"))
    text = str(jax.make_jaxpr(accelerate(step, platform="cpu+native"))(params, BLOCK))
    assert text.count("hcjax_loop") >= 4  # sums and results, forward and backward
    found = ours(params, BLOCK)
    jax.tree.map(close, found, jax.jit(step)(params, BLOCK))
    jax.tree.map(np.testing.assert_array_equal, found, ours(params, BLOCK))


def kernels(fn, *args, least_bytes=0):
    """Returns (operations, sums, arrays read, arrays written) of each loop of a function."""
    return [
        (len(k.order), sum(t.total for t in k.targets), len(k.full),
         sum(not t.total for t in k.targets))
        for k, _ in schedule(flat(jax.make_jaxpr(fn)(*args)), 1, least_bytes)
    ]  # fmt: skip


def test_what_is_read_and_written():
    hold = lax.optimization_barrier
    x, y = normal(*SHAPE), normal(*SHAPE, seed=1)
    v = normal(8, seed=2)
    assert kernels(lambda x: (x.sum((0, 1)), (x * x).sum((0, 1))), x) == [(1, 2, 1, 0)]
    assert kernels(lambda x, v: jax.nn.relu(x * v + 1.0), x, v) == [(3, 0, 1, 1)]
    # a mask is not kept: it is computed again from x, which is read anyway
    masked = lambda x, y: (hold(jax.nn.relu(x * 2)), jnp.where(x * 2 > 0, hold(y), 0) * x)
    assert sorted(kernels(masked, x, y)) == [(2, 0, 1, 1), (4, 0, 2, 1)]

    # or read off the relu's result, where x is a sum of several arrays
    def sums(x, y):
        z = x + y
        return jnp.where(z > 0, hold(jax.nn.relu(z)), 0.0)

    assert sorted(kernels(sums, x, y)) == [(2, 0, 2, 1), (2, 0, 2, 1)]

    # what three loops would compute from two arrays each is kept
    def shared(x, y):
        z, total = x + y, 0.0
        for _ in range(3):
            total = hold((z * total).sum((0, 1)))
        return total

    assert sorted(kernels(shared, x, y)) == [(1, 1, 1, 0), (1, 1, 1, 0), (2, 1, 2, 1)]
    # not worth a call, or not possible
    assert grouped(jax.make_jaxpr(lambda x: x.sum((0, 1)))(x)) is None
    assert kernels(lambda x: jnp.exp(x).sum(0), x) == []
    assert kernels(lambda x: x.astype(jnp.bfloat16) * 2, x) == []
    assert kernels(lambda x: x * x[:, :, :1] + x[:1], x) == []
    big = normal(64, 64, 16)
    update = lambda p, g: (p * 0.9 + g, g * 0.1)  # of an optimizer
    assert kernels(update, big, big, least_bytes=1) == []
    assert kernels(lambda x: jnp.exp(x).sum((0, 1)), big, least_bytes=1) == []


def test_a_failed_build_leaves_the_program(monkeypatch):
    def fail(*args, **kwargs):
        raise build.BuildError("no compiler")

    monkeypatch.setattr(build, "library", fail)
    x = normal(64, 64, 16)
    assert grouped(jax.make_jaxpr(lambda x: x.sum((0, 1)))(x)) is None
    fn = accelerate(lambda x: (x * x).sum((0, 1)), platform="cpu+native")
    assert "ffi_call" not in str(jax.make_jaxpr(fn)(x))
    close(fn(x), (x * x).sum((0, 1)))


def test_a_loop_that_is_not_loaded_is_an_error_and_no_crash():
    target = lambda x: loops_of_c.call(
        "nobody.k0", [jax.ShapeDtypeStruct((8,), "float32")], x, rows=12, channels=8, sums=1
    )
    with pytest.raises(Exception, match="has not loaded the loop nobody"):
        jax.block_until_ready(jax.jit(target)(normal(*SHAPE)))


@pytest.mark.parametrize("reduce", [jnp.sum, jnp.max, jnp.mean])
def test_a_number_may_be_summed_beside_loops(reduce):
    x = jnp.ones(SHAPE)

    def fn(x):  # as Keras' losses are, of a number that the program holds
        return (2 * x + 1).sum((0, 1)) + reduce(2.0) + reduce(jnp.float32(3), axis=())

    same_bits(loops(fn, x)(x), jax.jit(fn)(x))


@pytest.mark.parametrize("equal", [1, 256])
def test_a_sum_is_more_accurate_than_one_in_float32(equal):
    """Of equal numbers too, as the gradient of a mean is: they would be rounded alike each time."""
    x = jnp.repeat(normal(4096 // equal, 16) + 10, equal, axis=0)
    ours = jax.jit(loops(lambda x: x.sum(0), x))(x)
    np.testing.assert_allclose(ours, np.asarray(x, np.float64).sum(0), rtol=1.5e-7)


def test_explain_prints_a_line_for_a_group(capsys):
    explain(lambda x: jax.nn.relu(x * x).sum((0, 1)), normal(64, 64, 16), platform="cpu+native")
    printed = capsys.readouterr().out
    assert "2 elementwise operations, 1 sum of f32[64,64,16]" in printed
    assert "a loop that reads 1 array and writes 0: 0.3 MB" in printed


MAPPED = """
import jax, numpy as np, jax.numpy as jnp
from functools import partial
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from hcjax.accelerate import accelerate
from tests.native.test_loops import normal
assert jax.device_count() == 2
def fn(x, v):
    mean = x.mean((0, 1, 2))
    return jax.nn.relu((x - mean) * v * lax.rsqrt(jnp.square(x - mean).mean((0, 1, 2)) + 0.1))
x, v = normal(256, 8, 8, 16), normal(16)
fast = accelerate(lambda *a: (fn(*a).sum((0, 1, 2)), fn(*a)), platform="cpu+native")
halves = [fn(h, v) for h in (x[:128], x[128:])]
close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)
mapped = jax.pmap(fast, in_axes=(0, None))(x.reshape(2, 128, 8, 8, 16), v)
close(mapped[1], np.stack(halves))
mesh = Mesh(np.array(jax.devices()), ("d",))
specs = {"mesh": mesh, "in_specs": (P("d"), P())}
each = jax.jit(jax.shard_map(fast, out_specs=(P("d"), P("d")), **specs))
assert "hcjax_loop" in str(jax.make_jaxpr(each)(x, v))
close(each(x, v)[1], np.concatenate(halves))
try:
    jax.jit(jax.shard_map(lambda *a: fast(*a)[0], out_specs=P(), **specs))(x, v)
except ValueError as error:
    assert "out_specs" in str(error)
else:
    raise AssertionError("values that differ between devices were taken for equal")
total = accelerate(lambda x, v: lax.psum(fn(x, v).sum((0, 1, 2)), "d"), platform="cpu+native")
close(jax.jit(jax.shard_map(total, out_specs=P(), **specs))(x, v),
      sum(h.sum((0, 1, 2)) for h in halves), rtol=1e-3)
spread = jax.device_put(x, NamedSharding(mesh, P("d")))
close(jax.jit(fast)(spread, v)[1], fn(x, v))
with jax.set_mesh(jax.make_mesh((2,), ("d",))):
    typed, vector = (jax.device_put(a, P(*axes)) for a, axes in ((x, ("d",)), (v, ())))
    assert "hcjax_loop" not in str(jax.make_jaxpr(fast)(typed, vector))
    y = jax.jit(fast)(typed, vector)[1]
    assert jax.typeof(y).sharding.spec[0] == "d", jax.typeof(y)
    close(y, fn(x, v))
print("all the same")
"""

SECOND = """
import sys
from hcjax.devices import platform
from pathlib import Path
counts = platform.use_cache(Path(sys.argv[1]))
import jax
from hcjax.accelerate import accelerate
from tests.native.test_loops import normal
x = normal(64, 8, 8, 16)
jax.clear_caches()
counts.clear()
fast = accelerate(lambda x: jax.nn.relu(x * x).sum((0, 1, 2)), platform="cpu+native")
assert "hcjax_loop" in str(jax.make_jaxpr(fast)(x))
jax.jit(fast)(x).block_until_ready()
print(counts["hits"], counts["misses"])
"""


def process(text, *args, **variables):
    command = [sys.executable, "-c", text, *map(str, args)]
    environment = os.environ | variables
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    return run.stdout.strip()


def test_devices_and_meshes():
    two = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    assert process(MAPPED, **two) == "all the same"


def test_a_second_process_finds_the_program_and_the_loops(tmp_path):
    assert [process(SECOND, tmp_path) for _ in range(2)] == ["0 1", "1 0"]
