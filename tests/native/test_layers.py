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


TWICE = {  # an array that a layer adds, and what else reads it, before, after and beside
    "last read": lambda h: jax.nn.relu(layer() + B + h),
    "read before": lambda h: layer(h @ jnp.ones((16, 8))) + h,
    "read after": lambda h: (jax.nn.relu(layer() + h), jnp.tanh(h), layer(h @ jnp.ones((16, 8)))),
    "returned": lambda h: (layer() + B + h, h),
    "two layers": lambda h: (layer() + h, jax.nn.relu(layer(-X) + h)),
    "the layer's own image": lambda h: layer(h, jnp.ones((3, 3, 16, 16))) + h,
    "of a loop": lambda h: lax.fori_loop(0, 3, lambda i, c: layer() - jnp.abs(c + layer()) + c, h),
}


@pytest.mark.parametrize("name", TWICE)
def test_a_sum_in_place_changes_no_other_array(name):
    """The result takes the memory of what is added, if nothing else reads that."""
    made = {
        "computed": lambda r: TWICE[name](jnp.abs(r)),
        "an argument": lambda r: TWICE[name](r),
        "a constant": lambda r: TWICE[name](R),
    }
    for how, fn in made.items():
        ours = jax.jit(accelerate(fn, platform="cpu+native"))
        for _ in range(2):  # the first call must not have changed an argument or a constant
            jax.tree.map(np.testing.assert_array_equal, ours(R), fn(R))
        if (name, how) == ("last read", "computed"):
            text = ours.lower(R).compile().as_text()
            assert "output_to_operand_aliasing" in text
            assert " copy(" not in text.split("ENTRY")[1]
    several = jnp.stack([R, R - 1, -R])
    ours = jax.vmap(accelerate(made["computed"], platform="cpu+native"))(several)
    jax.tree.map(np.testing.assert_array_equal, ours, jax.vmap(made["computed"])(several))


def test_sums_of_integers_stay_exact():
    """A float32 of oneDNN's has 24 bits, and a bias of int32 may need more."""
    x, k = (jnp.asarray(jnp.round(40 * jnp.sin(a)), jnp.int8) for a in (X, K))
    large = 2**24 + 1 + jnp.arange(16)
    rest = 65537 * jnp.arange(960).reshape(2, 6, 5, 16)

    def product(x, k):
        layout = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(
            x, k, (1, 1), "SAME", dimension_numbers=layout, preferred_element_type=jnp.int32
        )

    def fn(x, k):
        clipped = jnp.maximum(product(x, k) + large, 2**24 + 3)
        return product(x, -k) + large, clipped, product(-x, k) + rest

    ours = jax.jit(accelerate(fn, platform="cpu+native"))
    jax.tree.map(np.testing.assert_array_equal, ours(x, k), fn(x, k))


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


@pytest.mark.parametrize("name, taken", [("ip:any", False), ("ref:any", False), ("jit:any", True)])
def test_a_layer_is_one_call_only_where_its_kernel_is_fast(monkeypatch, name, taken):
    """An inner product that adds a sum in another layout took a hundred times the convolution."""
    real = onednn.kernel_name

    def named(passing, dtype, sizes, window, after):
        return name if after else real(passing, dtype, sizes, window, after)

    monkeypatch.setattr(onednn, "kernel_name", named)
    rules = chosen(lambda x, r: layer(x) + B + r, X, R, table="cpu+native")
    assert ("native_layer" in rules) == taken and "native_convolution" in rules
