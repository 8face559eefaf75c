"""A convolution with its bias, residual sum and relu in one call: values, derivatives, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import hcjax
from hcjax.accelerate import accelerate
from hcjax.native import onednn
from tests.accelerate.convolutions import chosen, integers

pytestmark = pytest.mark.skipif(bool(onednn.missing()), reason=onednn.missing())
X, K = integers((2, 6, 5, 8), "float32", 0), integers((3, 3, 8, 16), "float32", 1)
B, R = integers((16,), "float32", 2), 30 * integers((2, 6, 5, 16), "float32", 3)


def layer(x=X, k=K):
    return lax.conv_general_dilated(
        x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def channels_first(b):
    x, k = X.transpose(0, 3, 1, 2), K.transpose(3, 2, 0, 1)
    return lax.conv_general_dilated(x, k, (1, 1), "SAME") + b[:, None, None]


ENDS = {
    "bias": lambda x, k, b, r: layer(x, k) + b,
    "bias before": lambda x, k, b, r: b[None, None, None, :] + layer(x, k),
    "relu": lambda x, k, b, r: jax.nn.relu(layer(x, k)),
    "bias, relu": lambda x, k, b, r: jax.nn.relu(layer(x, k) + b),
    "bias, sum": lambda x, k, b, r: r + (layer(x, k) + b),
    "bias, sum, relu": lambda x, k, b, r: jax.nn.relu(layer(x, k) + b + r),
    "sum, bias, relu6": lambda x, k, b, r: jax.nn.relu6(layer(x, k) + r + b),
    "maximum": lambda x, k, b, r: jnp.maximum(layer(x, k) + b, 3.0),
    "minimum": lambda x, k, b, r: jnp.minimum(layer(x, k) + b, -2.0),
    "channels first": lambda x, k, b, r: jax.nn.relu(channels_first(b)),
}


@pytest.mark.parametrize("name", ENDS)
def test_the_end_of_a_layer_is_one_call_of_the_same_values(name):
    fn = ENDS[name]
    ours = jax.jit(accelerate(fn, platform="cpu+native"))
    assert "native_layer" in chosen(fn, X, K, B, R, table="cpu+native")
    text = ours.lower(X, K, B, R).compile().as_text()
    assert text.count('custom_call_target="hcjax') == 1
    assert "add(" not in text and "maximum(" not in text and "minimum(" not in text
    np.testing.assert_array_equal(ours(X, K, B, R), fn(X, K, B, R))


@pytest.mark.parametrize("name", ENDS)
def test_derivatives_are_those_of_the_plain_layer(name):
    """Integers meet the bounds exactly: a relu's derivative at 0 is 0, a maximum's one half."""
    fn = ENDS[name]
    score = lambda f: lambda *a: (f(*a) * jnp.arange(f(*a).size).reshape(f(*a).shape)).sum()
    ours = jax.grad(score(accelerate(fn, platform="cpu+native")), (0, 1, 2, 3))(X, K, B, R)
    theirs = jax.grad(score(fn), (0, 1, 2, 3))(X, K, B, R)
    assert (np.asarray(fn(X, K, B, R)) == 0).any() or "relu" not in name
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_a_value_that_is_read_twice_is_not_computed_twice():
    def fn(x):
        y = layer(x) + B
        return jax.nn.relu(y), y

    ours = accelerate(fn, platform="cpu+native")
    text = jax.jit(ours).lower(X).compile().as_text()
    assert text.count('custom_call_target="hcjax') == 1
    jax.tree.map(np.testing.assert_array_equal, jax.jit(ours)(X), fn(X))


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: layer(x) + layer(x)[..., ::-1],  # a sum of two layers: one of them is in the call
        lambda x: jax.nn.relu(layer(x) + jnp.arange(5.0)[:, None]),  # not along the channels
        lambda x: jax.nn.relu(layer(x) + 2.0),
        lambda x: jnp.maximum(layer(x), R),
        lambda x: jnp.maximum(1.0, jnp.minimum(layer(x), -1.0)),
        lambda x: jax.nn.leaky_relu(layer(x) + B),
        lambda x: layer(x) - B,
    ],
)
def test_what_only_looks_like_a_layer_keeps_its_value(fn):
    np.testing.assert_array_equal(jax.jit(accelerate(fn, platform="cpu+native"))(X), fn(X))


def test_bfloat16_and_many_networks_at_once():
    fn = ENDS["bias, sum, relu"]
    small = [jnp.asarray(jnp.sign(a), jnp.bfloat16) for a in (X, K, B, R)]
    found = jax.jit(accelerate(fn, platform="cpu+native"))(*small)
    assert found.dtype == jnp.bfloat16
    wide = fn(*(a.astype(jnp.float32) for a in small))
    np.testing.assert_array_equal(found.astype(jnp.float32), wide.astype(jnp.bfloat16))
    several = [jnp.stack([a, a + 1, -a]) for a in (X, K, B, R)]
    ours = jax.vmap(accelerate(fn, platform="cpu+native"))(*several)
    np.testing.assert_array_equal(ours, jax.vmap(fn)(*several))


@pytest.mark.slow
def test_a_folded_network_calls_a_layer_at_a_time():
    network = hcjax.models.create("resnet8", input_shape=(8, 8, 3))
    params, state = network.init(jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))
    model = hcjax.fold(hcjax.trace(hcjax.inference(network.apply, state), params, x))
    ours = jax.jit(accelerate(model.apply, platform="cpu+native"))
    text = ours.lower(model.params, x).compile().as_text()
    assert text.count('custom_call_target="hcjax') == 7  # and nothing between but two shortcuts
    np.testing.assert_allclose(ours(model.params, x), model.apply(model.params, x), atol=1e-5)
