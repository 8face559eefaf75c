"""Fake and integer networks have the same logits where a compiler would like to rearrange."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hcjax
from hcjax.quantize import straight_through


def logits(model, images, *, closed=False):
    """Compiled, with the parameters as arguments or as constants."""
    if closed:
        return np.asarray(jax.jit(lambda x: model.apply(model.params, x))(images))
    return np.asarray(jax.jit(model.apply)(model.params, images))


def normal(*shapes, seed=0):
    keys = jax.random.split(jax.random.key(seed), len(shapes))
    return [jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True)]


def quantized(apply, params, images):
    model = hcjax.trace(apply, params, images[:1])
    return hcjax.fake_quantize(model, hcjax.calibrate(model, images[:512]))


NETWORKS = {
    "mean": lambda p, x: jax.nn.relu(x @ p[0]).mean(1) @ p[1],
    "affine": lambda p, x: jax.nn.relu((x @ p[0]) * 0.3 + 0.7).mean(1) @ p[1],
    "last": lambda p, x: jax.nn.relu(x @ p[0]).mean(1) @ p[1] / 7.0 + 0.1,
    "chain": lambda p, x: (jax.nn.relu(x @ p[0]).mean(1) * p[2] + p[3]) @ p[1],
}


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("mean", "affine", "last")]


@pytest.mark.parametrize("name", [*SLOW, "chain"])
def test_division_by_a_constant_is_one_in_both(name):
    differ = 0
    for seed in (4, 8):  # without the barriers some of 40,000 logits are off by one scale
        x, *params = normal((20_000, 9, 4), (4, 64), (64, 10), (64,), (64,), seed=seed)
        fake = quantized(NETWORKS[name], params, x)
        small = hcjax.int8(fake)
        expected = logits(small, x)
        for found in (logits(fake, x), logits(fake, x, closed=True), logits(small, x, closed=True)):
            differ += (found != expected).sum()
    assert differ == 0


def test_a_channel_that_is_scaled_by_zero_keeps_its_offset():
    x, a, b = normal((64, 8), (8, 4), (4,))
    params = {"a": a, "gain": jnp.array([1.0, 0.0, 2.0, -1.0]), "b": b + 50}
    fake = quantized(lambda p, x: (x @ p["a"]) * p["gain"] + p["b"], params, x)
    found = logits(fake, x)
    np.testing.assert_allclose(found[:, 1], params["b"][1], rtol=2e-3)
    np.testing.assert_array_equal(logits(hcjax.int8(fake), x), found)


@pytest.mark.slow
def test_parameters_that_are_read_twice_or_equal_are_what_they_were():
    x, a, b = normal((64, 8), (8, 5), (5, 3))
    params = {"a": a, "b": b, "s": jnp.ones(1), "slope": jnp.full(5, 0.25), "c": jnp.ones(5)}

    def apply(p, x):
        y = (x @ p["a"]) * p["c"]
        y = jnp.where(y > 0, y, p["slope"] * y)  # PReLU, as it is initialised
        return jnp.tanh(y * p["s"]) @ p["b"] * p["s"] + (y * p["c"]) @ p["b"]

    fake = quantized(apply, params, x)
    leaves = dict(fake.leaves(fake.params))
    for path, value in params.items():
        np.testing.assert_array_equal(leaves[path], value)
    added = set(fake.paths) - set(params)
    assert all(re.fullmatch(r".*/(kernel_)?step(_\d+)?", path) for path in added), added
    gradients = jax.jit(jax.grad(lambda p: (fake.apply(p, x) ** 2).sum()))(fake.params)
    slopes = {path: np.unique(g) for path, g in fake.leaves(gradients).items() if path in params}
    assert {path: g.size for path, g in slopes.items()} == {p: v.size for p, v in params.items()}
    trained = fake.replace(params=jax.tree.map(lambda w, g: w - 1e-4 * g, fake.params, gradients))
    np.testing.assert_array_equal(logits(hcjax.int8(trained), x), logits(trained, x))


@pytest.mark.slow
def test_gradients_are_finite_where_a_function_is_infinitely_steep():
    x, a, b = normal((16, 8), (8, 8), (8, 3))
    params = {"a": jnp.abs(a) * jnp.array([1.0] * 7 + [1e-3]), "b": b}
    fake = quantized(lambda p, x: jnp.sqrt(x @ p["a"]) @ p["b"], params, jnp.abs(x) + 0.1)
    gradients = jax.jit(jax.grad(lambda p: (fake.apply(p, jnp.abs(x) + 0.1) ** 2).sum()))(
        fake.params
    )
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))
    assert np.any(dict(fake.leaves(gradients))["a"])
    assert np.isfinite(jax.grad(lambda x: jnp.log(straight_through.guard_gradient(x)) * 0.0)(0.0))


def test_rows_of_an_image_that_differ_are_added_in_float():
    x, a, t, b = normal((6, 9, 9, 4), (4, 6), (9, 9, 6), (6, 3))

    def apply(p, x):
        n = x.shape[0]
        table = jnp.broadcast_to(p["t"][None], (n, 9, 9, 6)).reshape(n * 9, 9, 6)
        y = jax.nn.relu(x.reshape(n * 9, 9, 4) @ p["a"] + table)
        return y.reshape(n, 9, 9, 6).mean((1, 2)) @ p["b"]

    fake = quantized(apply, {"a": a, "t": t, "b": b}, x)
    found = logits(fake, x)
    np.testing.assert_allclose(found, apply({"a": a, "t": t, "b": b}, x), atol=0.05)
    assert len(fake.floats) == 1 and fake.floats[0].startswith("add ")
    np.testing.assert_array_equal(logits(hcjax.int8(fake), x), found)


@pytest.mark.parametrize("images", [np.zeros((6, 7)), np.zeros(8), np.zeros((0, 8))])
def test_images_of_another_shape_are_refused(images):
    x, a = normal((6, 8), (8, 4))
    model = hcjax.trace(lambda p, x: x @ p, a, x[:1])
    message = "no images" if images.shape == (0, 8) else r"images must be \[N, 8\]"
    with pytest.raises(ValueError, match=message):
        hcjax.calibrate(model, images)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ranges": {"a": 1}}, "ranges must be Ranges, from hcjax.calibrate, got dict"),
        ({"model": len}, "model must be a Model, from hcjax.trace"),
        ({"floats": ["a"]}, r"floats: \['a'\] is no regular expression"),
        ({"bits": {1: 4}}, "bits: 1 is no regular expression"),
        ({"bits": {"a": {"b": 4}}}, r"bits\['a'\] must be an int"),
    ],
)
def test_arguments_of_another_kind_are_named(arguments, message):
    x, a = normal((6, 8), (8, 4))
    model = hcjax.trace(lambda p, x: x @ p["a"], {"a": a}, x[:1])
    given = {"model": model, "ranges": hcjax.calibrate(model, x)} | arguments
    with pytest.raises(hcjax.errors.ConfigError, match=message):
        hcjax.fake_quantize(given.pop("model"), given.pop("ranges"), **given)
