"""Generated loops: the values of XLA's own operations, in every transform; what is grouped."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from hcjax.accelerate.groups import grouped
from hcjax.native import onednn

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


@pytest.mark.parametrize("seed", range(12))
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
