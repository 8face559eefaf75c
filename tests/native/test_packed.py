"""Kernels that a program holds are brought into oneDNN's layout once: values and transforms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import hcjax
from hcjax.accelerate import accelerate
from hcjax.native import onednn
from tests.accelerate.convolutions import integers

pytestmark = pytest.mark.skipif(bool(onednn.missing()), reason=onednn.missing())
LAYOUT = ("NHWC", "HWIO", "NHWC")
X, K = integers((2, 9, 8, 16), "float32", 0), integers((3, 3, 16, 20), "float32", 1)
NEGATIVE, SLOW = -K, pytest.mark.slow
B, R = integers((20,), "float32", 2), integers((2, 9, 8, 20), "float32", 3)


def layer(x, k, **how):
    how = {"window_strides": (1, 1), "padding": "SAME", "dimension_numbers": LAYOUT} | how
    return lax.conv_general_dilated(x, k, **how)


def fast(fn):
    return accelerate(fn, platform="cpu+native")


def packed(fn, *args):
    """Returns how many kernels an accelerated function's program holds as bytes."""
    return jax.jit(fast(fn)).lower(*args).compile().as_text().count(" = u8[")


CASES = {
    "plain": {},
    "strided": {"window_strides": (2, 2)},
    "dilated": {"rhs_dilation": (2, 1)},
    "grouped": {"feature_group_count": 4},
    "depthwise": {"feature_group_count": 16},
    "channels first": {"dimension_numbers": ("NCHW", "OIHW", "NCHW")},
}


@pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, "float32") for name in CASES]
    + [(name, dtype) for name in ("plain", "grouped") for dtype in ("bfloat16", "int8")],
)
def test_a_constant_kernel_gives_the_same_bits_as_an_argument(name, dtype):
    how = dict(CASES[name])
    groups = how.get("feature_group_count", 1)
    outputs = 16 if groups == 16 else 20  # which fill up a block of 16
    kernel = (3, 3, 16 // groups, outputs)
    kernel = kernel[:1:-1] + kernel[:2] if name == "channels first" else kernel
    x = integers((2, 16, 9, 8) if name == "channels first" else X.shape, dtype, 0)
    k = integers(kernel, dtype, 1)
    if dtype == "int8":
        how["preferred_element_type"] = jnp.int32
    constant, argument = lambda x: layer(x, k, **how), lambda x, k: layer(x, k, **how)
    found = jax.jit(fast(constant))(x)
    np.testing.assert_array_equal(found, jax.jit(fast(argument))(x, k))
    np.testing.assert_array_equal(found, layer(x, k, **how))


ENDS = {
    "alone": lambda x: layer(x, K),
    "relu": lambda x: jax.nn.relu(layer(x, K) + B),
    "sum, relu6": lambda x: jax.nn.relu6(layer(x, K) + B + R),
    "sum in place": lambda x: layer(x, K) + jnp.abs(layer(x, NEGATIVE)),
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=SLOW if n in ("alone", "relu") else ()) for n in ENDS]
)
def test_with_all_that_follows_and_under_transforms(name):
    fn = ENDS[name]
    assert packed(fn, X) == (2 if name == "sum in place" else 1)
    ours = fast(fn)
    np.testing.assert_array_equal(jax.jit(ours)(X), fn(X))
    score = lambda f: lambda x: (f(x) * R).sum()
    np.testing.assert_array_equal(jax.grad(score(ours))(X), jax.grad(score(fn))(X))
    jax.tree.map(
        np.testing.assert_array_equal, jax.jvp(ours, (X,), (-X,)), jax.jvp(fn, (X,), (-X,))
    )
    several = jnp.stack([X, -X, X + 1])
    np.testing.assert_array_equal(jax.vmap(ours)(several), jax.vmap(fn)(several))
    scanned = lambda f: lax.scan(lambda c, x: (c, f(x)), 0, several)[1]
    np.testing.assert_array_equal(jax.jit(lambda: scanned(ours))(), scanned(fn))
    np.testing.assert_array_equal(jax.jit(fast(lambda: scanned(fn)))(), scanned(fn))


def test_each_function_has_its_own_kernel():
    kernels = [K, K + 1, np.asarray(-K)]
    for k in kernels * 2:
        np.testing.assert_array_equal(jax.jit(fast(lambda x, k=k: layer(x, k)))(X), layer(X, k))


def test_a_jitted_function_that_holds_its_kernel_or_is_given_a_constant_one():
    holds, given = jax.jit(lambda x: jnp.sin(layer(x, K))), jax.jit(layer)
    assert packed(holds, X) == packed(lambda x: given(x, K), X) == 1
    assert packed(lambda x: jax.jit(holds)(x) + 1, X) == 1
    two = lambda x: given(x, K) * given(x, NEGATIVE) + given(x, jnp.abs(K))
    assert packed(two, X) == 2
    np.testing.assert_array_equal(jax.jit(fast(two))(X), two(X))
    np.testing.assert_array_equal(fast(holds)(X), holds(X))  # without an outer jit
    assert packed(jax.checkpoint(lambda x: layer(x, K)), X) == 0
    branches = lambda x: lax.cond(x[0, 0, 0, 0] > 0, lambda: layer(x, K), lambda: R)
    np.testing.assert_array_equal(jax.jit(fast(branches))(X), branches(X))
    score = lambda f: lambda x: (f(x) * R).sum()
    np.testing.assert_array_equal(jax.grad(score(fast(two)))(X), jax.grad(score(two))(X))
    np.testing.assert_array_equal(jax.jit(fast(jax.grad(score(two))))(X), jax.grad(score(two))(X))


def test_what_is_computed_is_not_packed():
    assert packed(lambda x: layer(x, jnp.abs(K)), X) == 0
    assert packed(lambda x: lax.fori_loop(0, 2, lambda i, c: c + layer(x, K), R), X) == 0
    # of an enclosing function's trace
    outer = jax.jit(lambda x, k: fast(lambda x: layer(x, k))(x))
    np.testing.assert_array_equal(outer(X, K), layer(X, K))


def test_bytes_of_another_layout_are_refused():
    window = onednn.window_of((1, 1), (1, 1), ((1, 1), (1, 1)), *[(0, 1, 2, 3)] * 3, 1)
    bytes_ = np.zeros(64, np.uint8)
    with pytest.raises(Exception, match="packed in another way"):
        onednn.convolution(X, K, window=window, result=R, packed=(bytes_,)).block_until_ready()


def test_a_network_in_use_is_packed():
    network = hcjax.models.create("lenet5")
    params, state = network.init(jax.random.key(0))
    x = jnp.ones((1, 28, 28, 1))
    model = hcjax.trace(hcjax.inference(network.apply, state), params, x)
    assert packed(lambda x: model.apply(model.params, x), x) == 2
    assert packed(model.apply, model.params, x) == 0
