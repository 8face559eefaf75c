"""A few rows times a large matrix by the native kernel: values, bits, transforms, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from hcjax.accelerate import accelerate
from hcjax.accelerate.accelerate import explanation
from hcjax.accelerate.rules import RULES
from hcjax.native import calls, onednn, rows
from tests.accelerate.convolutions import chosen, integers

pytestmark = pytest.mark.skipif(
    bool(onednn.missing() or rows.missing()), reason=onednn.missing() or rows.missing()
)


def product(x, w):
    return lax.dot_general(x, w, (((x.ndim - 1,), (0,)), ((), ())))


def fast(fn):
    return accelerate(fn, platform="cpu+native")


@settings(max_examples=10, deadline=None)
@given(
    st.sampled_from([(1,), (), (3,), (4,), (2, 2), (1, 1, 3)]),
    st.sampled_from([(1024, 512), (1031, 517), (524288, 33), (33, 524288), (4099, 1025)]),
    st.integers(0, 9),
)
def test_values_equal_the_plain_product(leading, sizes, seed):
    x, w = integers((*leading, sizes[0]), "float32", seed), integers(sizes, "float32", seed + 1)
    assert chosen(product, x, w, table="cpu+native") == ["native_rows"]
    np.testing.assert_array_equal(jax.jit(fast(product))(x, w), product(x, w))  # exact sums


def test_bits_do_not_depend_on_threads_or_runs():
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(s).astype("f") for s in ((3, 3001), (3001, 1003)))
    set_threads = calls.load(rows._library()).hcjax_rows_threads
    run, found = jax.jit(rows.product), []
    try:
        for threads in (1, 2, 3, 5, 2):
            set_threads(threads)
            found.append(np.asarray(run(x, w)))
    finally:
        set_threads(calls.threads())
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])
    np.testing.assert_allclose(found[0], x.astype(float) @ w.astype(float), rtol=1e-3, atol=1e-4)


def test_not_a_number_and_infinity_stay():
    x, w = jnp.ones((2, 1024)).at[0, 3].set(0), jnp.ones((1024, 512))
    w = w.at[3, 5].set(jnp.inf).at[7, 6].set(jnp.nan)
    np.testing.assert_array_equal(jax.jit(fast(product))(x, w), product(x, w))


LONG = ("second derivative", "vmap of vmap of grad", "grad of vmap")
X, W = integers((2, 1024), "float32", 0), integers((1024, 512), "float32", 1)
TRANSFORMS = {
    "grad": lambda f: jax.grad(lambda *a: (f(*a) ** 2).sum(), (0, 1)),
    "jvp": lambda f: lambda x, w: jax.jvp(f, (x, w), (x, w)),
    "second derivative": lambda f: lambda x, w: jax.hessian(
        lambda s: (f(x * s, w * s) ** 2).sum()
    )(jnp.float32(2)),
    "vmap": lambda f: lambda x, w: jax.vmap(f, (0, None))(jnp.stack([x, 2 * x, x - 1]), w),
    "vmap of both": lambda f: lambda x, w: jax.vmap(f)(jnp.stack([x, -x]), jnp.stack([w, w + 1])),
    "vmap of vmap of grad": lambda f: lambda x, w: jax.vmap(
        jax.vmap(jax.grad(lambda *a: (f(*a) ** 2).sum()), (0, None)), (0, None)
    )(jnp.stack([x, 2 * x])[None], w),
    "grad of vmap": lambda f: lambda x, w: jax.grad(
        lambda w: (jax.vmap(f, (0, None))(jnp.stack([x, -x]), w) ** 2).sum()
    )(w),
    "scan": lambda f: lambda x, w: lax.scan(lambda c, x: (c, f(x, w)), 0, jnp.stack([x, -x]))[1],
    "cond": lambda f: lambda x, w: lax.cond(x[0, 0] > 9, lambda: f(x, w), lambda: f(-x, w)),
    "remat": lambda f: jax.grad(lambda *a: (jax.checkpoint(f)(*a) ** 2).sum(), (0, 1)),
}  # fmt: skip


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in LONG else ()) for n in TRANSFORMS]
)
def test_every_transform_gives_the_same(name):
    transform = TRANSFORMS[name]
    theirs = transform(product)(X, W)
    check = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5)
    for ours in (fast(transform(product)), transform(fast(product))):
        jax.tree.map(check, jax.jit(ours)(X, W), theirs)


def test_many_rows_at_once_are_one_plain_product():
    several = jnp.stack([X] * 64)
    mapped = jax.make_jaxpr(jax.vmap(fast(product), (0, None)))(several, W)
    assert "scan" not in str(mapped) and "while" not in str(mapped)


@pytest.mark.parametrize(
    ("why", "fn", "x", "w"),
    [
        ("5 rows", product, (5, 1024), (1024, 512)),
        ("0 rows", product, (0, 1024), (1024, 512)),
        ("1024 x 511", product, (1, 1024), (1024, 511)),
        ("20000 x 32", product, (1, 20000), (20000, 32)),
        ("a transposed matrix", lambda x, w: x @ w.T, (1, 512), (1024, 512)),
        (
            "not rows times a matrix",
            lambda x, w: lax.dot_general(x, w, (((1,), (0,)), ((), ()))),
            (1, 1024),
            (1024, 512, 1),
        ),
        (
            "a precision of its own",
            lambda x, w: lax.dot(x, w, precision="BF16_BF16_F32"),
            (1, 1024),
            (1024, 512),
        ),
        ("not float32", lambda x, w: (x.astype("bfloat16") @ w.astype("bfloat16")),
         (1, 1024), (1024, 512)),
    ],
)  # fmt: skip
def test_other_products_are_left_and_it_says_why(why, fn, x, w):
    rule = RULES["cpu+native"]["dot_general"][:1]
    rows_ = explanation(fn, jnp.ones(x), jnp.ones(w), table={"dot_general": rule})
    assert why in rows_[-1][-1]


def test_it_is_switched_off_with_the_other_native_kernels(monkeypatch):
    monkeypatch.setattr(onednn, "missing", lambda: "HCJAX_NATIVE=0 switches them off")
    rule = RULES["cpu+native"]["dot_general"][:1]
    [(_, _, text)] = explanation(product, X, W, table={"dot_general": rule})
    assert "switches them off" in text
