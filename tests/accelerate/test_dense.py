"""The rule for thin matrix products equals the plain product, and its derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

import hcjax
from hcjax.accelerate.accelerate import explanation
from hcjax.accelerate.rules import RULES


def product(x, k):
    return lax.dot_general(x, k, (((1,), (0,)), ((), ())))


def verdict(fn, *args):
    [(_, _, text)] = explanation(fn, *args, table=RULES["cpu"])
    return text


@settings(max_examples=4, deadline=None)
@given(
    st.integers(256, 400),
    st.integers(1, 32),
    st.permutations([0, 1, 2]),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_values_and_gradients_equal_the_plain_product(length, columns, order, first, seed):
    rng = np.random.default_rng(seed)
    sizes = [1, 1, length]
    x = jnp.asarray(rng.standard_normal([sizes[i] for i in order]), jnp.float32)
    shape = (length, columns) if first else (columns, length)
    k = jnp.asarray(rng.standard_normal(shape), jnp.float32)
    dims = (((order.index(2),), (0 if first else 1,)), ((), ()))
    plain = lambda x, k: lax.dot_general(x, k, dims)
    assert verdict(plain, x, k).startswith("row_times_thin: ")
    fast = hcjax.accelerate(plain, platform="cpu")
    np.testing.assert_allclose(fast(x, k), plain(x, k), rtol=1e-4, atol=1e-4)
    plains, fasts = (
        jax.jit(jax.grad(lambda *args, g=g: jnp.sin(g(*args)).sum(), (0, 1)))(x, k)
        for g in (plain, fast)
    )
    for one, other in zip(plains, fasts, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "x, k, why",
    [
        ((2, 300), (300, 10), "2 rows"),
        ((1, 300), (300, 33), "300 x 33"),
        ((1, 255), (255, 10), "255 x 10"),
    ],
)
def test_other_products_are_left_and_it_says_why(x, k, why):
    assert why in verdict(product, jnp.ones(x), jnp.ones(k))
    half = jnp.ones((1, 300), jnp.bfloat16), jnp.ones((300, 10), jnp.bfloat16)
    assert "not float32" in verdict(product, *half)
