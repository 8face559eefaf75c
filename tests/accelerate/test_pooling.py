"""Pooling rules: values, gradients and their gradients equal the plain primitive's, ties included.

Images hold a few small integers, so that ties are the rule, and sums are exact in any order.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from hcjax.accelerate.accelerate import accelerate, explanation
from hcjax.accelerate.rules import RULES
from tests.accelerate.convolutions import chosen

OPS = {"max": (lax.max, -jnp.inf), "sum": (lax.add, 0.0)}


@st.composite
def pools(draw):
    """Draws (operation, image, window, strides, padding): any rank, overlapping, padded, tied."""
    rank = draw(st.integers(1, 4))
    window = [draw(st.integers(1, 3)) for _ in range(rank)]
    strides = [draw(st.integers(1, 3)) for _ in range(rank)]
    padding = [(draw(st.integers(0, w - 1)), draw(st.integers(0, w - 1))) for w in window]
    shape = [w + draw(st.integers(0, 4)) for w in window]
    dtype = draw(st.sampled_from(["float32", "bfloat16"]))
    seed = draw(st.integers(0, 2**16))
    image = np.random.default_rng(seed).integers(-2, 3, shape).astype(np.float32)
    return draw(st.sampled_from(sorted(OPS))), jnp.asarray(image, dtype), window, strides, padding


def pool(operation, x, window, strides, padding):
    op, start = OPS[operation]
    return lax.reduce_window(x, np.array(start, x.dtype), op, window, strides, padding)


@settings(max_examples=8, deadline=None)
@given(pools())
def test_values_and_derivatives_equal_the_primitives(case):
    operation, x, *how = case

    def both(fast):
        """Returns the value, the gradient of a score and a directional derivative."""
        wrap = (lambda f: accelerate(f, platform="cpu")) if fast else (lambda f: f)
        plain = lambda x: pool(operation, x, *how)
        shape = jax.eval_shape(plain, x).shape
        weights = (np.arange(1, 1 + np.prod(shape)) % 5).reshape(shape)
        tangent = jnp.asarray((np.arange(x.size) % 7 - 3).reshape(x.shape), x.dtype)
        score = lambda f: lambda x: (f(x) * weights).sum()
        return jax.jit(
            lambda x: {
                "value": wrap(plain)(x),
                "gradient of the rewrite": jax.grad(score(wrap(plain)))(x),
                "rewritten gradient": wrap(jax.grad(score(plain)))(x),
                "derivative of the rewrite": jax.jvp(wrap(plain), (x,), (tangent,)),
                "rewritten derivative": wrap(lambda x: jax.jvp(plain, (x,), (tangent,)))(x),
            }
        )(x)

    jax.tree.map(np.testing.assert_array_equal, both(True), both(False))


@settings(max_examples=6, deadline=None)
@given(pools())
def test_gradients_of_gradients_equal_the_primitives(case):
    operation, x, *how = case
    if operation == "max" and any(padded for pair in how[2] for padded in pair):
        return  # jax itself has no second derivative of a padded max-pool
    squared = lambda f: lambda x: (f(x * x) ** 2).sum()
    plain = lambda x: pool(operation, x, *how)
    x = x.astype(jnp.float32)
    second = lambda f: jax.grad(lambda x: (jax.grad(squared(f))(x) ** 2).sum())
    expected = jax.jit(second(plain))(x)
    fast = lambda f: accelerate(f, platform="cpu")
    for ours in (second(fast(plain)), fast(second(plain))):
        np.testing.assert_allclose(jax.jit(ours)(x), expected, rtol=1e-5)


def test_integer_maxima_are_rewritten_too():
    x = jnp.arange(16, dtype=jnp.int8).reshape(4, 4) - 8
    plain = lambda x: lax.reduce_window(x, jnp.int8(-128), lax.max, (2, 2), (2, 2), "VALID")
    np.testing.assert_array_equal(accelerate(plain, platform="cpu")(x), plain(x))


@pytest.mark.parametrize(
    "window, dilation, why",
    [
        ((9, 9), (1, 1), "more than 64"),
        ((1, 1), (1, 1), "one element"),
        ((2, 2), (2, 2), "dilated"),
    ],
)
def test_what_is_left_alone_says_why(window, dilation, why):
    def plain(x):
        return lax.reduce_window(
            x, -jnp.inf, lax.max, window, (1, 1), "VALID", window_dilation=dilation
        )

    x = jnp.ones((12, 12))
    ((_, _, verdict),) = explanation(plain, x, table=RULES["cpu"])
    assert why in verdict
    np.testing.assert_array_equal(accelerate(plain, platform="cpu")(x), plain(x))


def test_small_windows_side_by_side_are_left_to_native_programs():
    def windows(x, size, stride):
        shape = ((1, size, size, 1), (1, stride, stride, 1))
        return lax.reduce_window(x, -jnp.inf, lax.max, *shape, "VALID")

    x = jnp.arange(2.0 * 8 * 8 * 3).reshape(2, 8, 8, 3)
    for size, stride, named in ((2, 2, []), (3, 3, ["wide_max_pool"]), (2, 1, ["wide_max_pool"])):
        run = lambda x, size=size, stride=stride: windows(x, size, stride)
        assert chosen(run, x, table="cpu+native") == named
        np.testing.assert_array_equal(accelerate(run, platform="cpu+native")(x), run(x))
