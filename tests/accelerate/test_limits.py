"""What rules leave alone, because they would change it, or would not pay."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax import lax

from hcjax import accelerate
from hcjax.accelerate.rules import RULES, depthwise, gradients
from hcjax.core import walker

TABLES = [name for name in RULES if name.startswith("cpu")]


def layer(x, k, *, strides=(1, 1), padding="SAME", **options):
    return lax.conv_general_dilated(
        x, k, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"), **options
    )


def same(fn, *args):
    for table in TABLES:
        found, plain = accelerate(fn, platform=table)(*args), fn(*args)
        assert found.dtype == plain.dtype and found.shape == plain.shape
        np.testing.assert_array_equal(*(np.asarray(x, np.float64) for x in (found, plain)))


def answers(rule, fn, *args):
    """Returns what a rule says of each convolution of a function."""
    found = walker.equations(jax.make_jaxpr(fn)(*args))
    return [rule(*e) for e in found if e[0].primitive.name == "conv_general_dilated"]


def test_a_depthwise_kernel_gradient_of_int8_sums_in_int32():
    x, k = jnp.full((2, 1, 1, 8), 100, jnp.int8), jnp.full((1, 1, 8, 2), 100, jnp.int8)
    options = {"batch_group_count": 2, "preferred_element_type": jnp.int32, "padding": "VALID"}
    assert layer(x, k, **options).max() == 80_000
    same(lambda x, k: layer(x, k, **options), x, k)


def test_a_thin_product_keeps_a_wider_result():
    with jax.enable_x64(True):
        x = jnp.full((1, 300), 1 / 3, jnp.float32)
        product = lambda x: lax.dot(x, x.T, preferred_element_type=jnp.float64)
        same(product, x)


@pytest.mark.parametrize(
    ("dtype", "lowest"),
    [(ml_dtypes.float8_e4m3fn, -448), (ml_dtypes.float8_e5m2, -np.inf), (jnp.bfloat16, -np.inf)],
)
def test_padding_of_a_max_pool_is_below_everything(dtype, lowest):
    lowest = np.array(lowest, dtype)
    x = jnp.asarray([[-3.0, -2.0], [-5.0, -1.0]], dtype)

    def pool(x):
        return lax.reduce_window(x, lowest, lax.max, (3, 3), (1, 1), "SAME")

    found = accelerate(pool, platform="cpu")(x)
    assert np.asarray(found, np.float32).tolist() == [[-1, -1], [-1, -1]]


@pytest.mark.parametrize("kernel", [(3, 3, 1, 1), (2, 1, 1, 1)])
def test_empty_results_are_left_alone(kernel):
    x = jnp.ones((1, 1, 1, 1))
    same(lambda x, k: layer(x, k, padding="VALID"), x, jnp.ones(kernel))
    pool = lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (3, 3), (1, 1), "VALID")
    same(pool, jnp.ones((2, 2)))
    same(jax.grad(lambda x: pool(x).sum()), jnp.ones((2, 2)))


def test_taps_or_phases_that_would_take_long_to_compile_are_left_alone():
    x, k = jnp.ones((1, 16, 16, 4)), jnp.ones((12, 12, 1, 4))
    grouped = lambda x, k: layer(x, k, feature_group_count=4)
    (answer,) = answers(depthwise.depthwise, grouped, x, k)
    assert "144 taps" in answer
    gradient = jax.grad(lambda k: grouped(x, k).sum())
    assert "144 taps" in answers(depthwise.depthwise_kernel_gradient, gradient, k)[-1]
    transposed = lambda x, k: lax.conv_transpose(x, k, (16, 16), "SAME")
    (answer,) = answers(gradients.input_gradient_phases, transposed, x, jnp.ones((16, 16, 4, 4)))
    assert "256 phases" in answer
