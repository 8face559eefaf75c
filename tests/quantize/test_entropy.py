"""The bits of a kernel's integers: right at integers, with the slope of what lies between."""

import collections
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hcjax

IMAGES = jnp.ones((2, 6))


def fake_model(granularity="tensor", bits=4):
    rng = np.random.default_rng(0)
    params = {
        "a": {"w": jnp.asarray(rng.normal(size=(6, 8)), jnp.float32)},
        "b": {"w": jnp.asarray(rng.normal(size=(8, 3)) / 9, jnp.float32)},
    }
    model = hcjax.trace(lambda p, x: jax.nn.relu(x @ p["a"]["w"]) @ p["b"]["w"], params, IMAGES)
    options = {"bits": bits, "activation_bits": 8, "granularity": granularity}
    return hcjax.fake_quantize(model, hcjax.calibrate(model, IMAGES), **options)


def code(integers, most):
    """An adaptive code's bits, of counts that began with one each."""
    counts = collections.Counter(np.asarray(integers).ravel().tolist())
    total = sum(counts.values()) + 2 * most + 1
    return -sum(n * math.log2((n + 1) / total) for n in counts.values())


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_at_integers_it_is_the_code_of_what_int8_stores(granularity, bits):
    fake = fake_model(granularity, bits)
    small = hcjax.int8(fake)
    stored = {k: v for k, v in small.params.items() if hasattr(v, "values") and v.values.ndim == 2}
    assert len(stored) == 2
    params = dict(fake.params)
    for path, kernel in stored.items():  # weights moved to where they are rounded to
        step = params[path.replace("/w", "/kernel_step")]
        params[path] = kernel.values * step
    expected = sum(code(kernel.values, 2 ** (bits - 1) - 1) for kernel in stored.values())
    np.testing.assert_allclose(hcjax.entropy(fake)(params), expected, rtol=1e-5)


def test_its_slope_is_that_of_finite_differences():
    fake = fake_model("channel")
    bits = jax.jit(hcjax.entropy(fake))
    slope = jax.grad(bits)(fake.params)["a/w"]
    step = np.asarray(fake.params["a/kernel_step"])
    v = np.asarray(fake.params["a/w"]) / step
    inside = (np.abs(v - np.round(v)) > 0.05) & (np.abs(v) < 6.9)
    for i, j in list(zip(*np.nonzero(inside), strict=True))[:12]:
        h = 0.02 * step[j]
        moved = [fake.params | {"a/w": fake.params["a/w"].at[i, j].add(s)} for s in (h, -h)]
        up, down = (float(bits(p)) for p in moved)
        np.testing.assert_allclose(slope[i, j], (up - down) / (2 * h), rtol=0.02, atol=0.05)


def test_descent_takes_bits_away():
    fake = fake_model()
    bits = hcjax.entropy(fake)
    tx = optax.sgd(1e-3)

    @jax.jit
    def step(params, state):
        updates, state = tx.update(jax.grad(bits)(params), state)
        return optax.apply_updates(params, updates), state

    params, state = fake.params, tx.init(fake.params)
    for _ in range(100):
        params, state = step(params, state)
    sizes = [len(set(np.asarray(hcjax.int8(fake.replace(params=p)).params["a/w"].values).ravel()))
             for p in (fake.params, params)]  # fmt: skip
    assert sizes[1] < sizes[0]
    assert bits(params) < 0.8 * bits(fake.params)


def test_a_model_in_floats_is_refused():
    model = hcjax.trace(lambda p, x: x @ p["w"], {"w": jnp.ones((6, 2))}, IMAGES)
    with pytest.raises(ValueError, match="give a model from fake_quantize"):
        hcjax.entropy(model)
