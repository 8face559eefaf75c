"""The whole chain: trace, fold, calibrate, fake_quantize, int8, pack, unpack: one network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hcjax
from tests.graph import reference
from tests.graph.networks import logits, randomized


def attention(p, x):
    q, k, v = (x @ p[name] for name in "qkv")
    weights = jax.nn.softmax(jnp.einsum("ntc,nsc->nts", q, k) / 2.2, -1)
    return (x + jnp.einsum("nts,nsc->ntc", weights, v)).mean(1) @ p["o"]


SOFT = {
    "attention": attention,
    "log_softmax": lambda p, x: jax.nn.log_softmax(x.mean(1) @ p["q"] @ p["o"]),
    "softmax": lambda p, x: jax.nn.softmax(x.mean(1) @ p["q"] @ p["o"]),
}


@pytest.mark.parametrize("name", SOFT)
def test_what_ends_in_a_softmax_has_a_file(name):
    shapes = {"q": (5, 5), "k": (5, 5), "v": (5, 5), "o": (5, 4)}
    params = randomized({k: jnp.zeros(shape) - 0.1 for k, shape in shapes.items()})
    x = jax.random.normal(jax.random.key(0), (8, 6, 5))
    model = hcjax.fold(hcjax.trace(SOFT[name], params, x[:1]))
    small = hcjax.int8(model, hcjax.calibrate(model, x))
    assert [line.split()[0] for line in small.floats] == ["div"] * (name != "log_softmax")
    for m in (model, small):
        back = hcjax.unpack(hcjax.pack(m))
        np.testing.assert_array_equal(logits(back, x), logits(m, x))
    if not small.floats:
        np.testing.assert_array_equal(logits(small, x), reference.logits(small, x))


def test_a_stopped_gradient_stays_stopped_in_a_file():
    x = jnp.ones((1, 3))
    model = hcjax.trace(lambda p, x: x * p * jax.lax.stop_gradient(x * p), jnp.full(3, 2.0), x)
    for m in (model, hcjax.unpack(hcjax.pack(model))):
        gradient = jax.grad(lambda p, m=m: m.apply(p, x).sum())(m.params)
        assert jax.tree.leaves(gradient)[0].ravel().tolist() == [2, 2, 2]
