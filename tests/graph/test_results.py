"""Ops with several results, and arrays without elements, through every reading."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import hcjax
from hcjax.errors import ConfigError

RNG = np.random.default_rng(0)
PARAMS = {k: jnp.asarray(RNG.standard_normal(s), jnp.float32) for k, s in
          {"a": (6, 8), "b": (8, 3)}.items()}  # fmt: skip
IMAGES = jnp.asarray(RNG.standard_normal((5, 6)), jnp.float32)
WIDTH = 8


@jax.custom_jvp
def sin_cos(x):
    return jnp.sin(x), jnp.cos(x)


@sin_cos.defjvp
def _(primals, tangents):
    (x,), (dx,) = primals, tangents
    return sin_cos(x), (jnp.cos(x) * dx, -jnp.sin(x) * dx)


def places(h):
    return lax.broadcasted_iota(jnp.int32, h.shape, 1)


def highest(h):
    """The highest number of each row and its place, by one reduction of pairs."""

    def higher(left, right):
        (x, i), (y, j) = left, right
        first = (x > y) | ((x == y) & (i < j))
        return jnp.where(first, x, y), jnp.where(first, i, j)

    return lax.reduce((h, places(h)), (np.float32(-np.inf), np.int32(0)), higher, (1,))


def matrices(h):
    return jnp.eye(WIDTH)[None] + h[:, :, None] * h[:, None, :]


def real(x):
    return x.astype(jnp.float32)


SEVERAL = {
    "top_k values": lambda h: lax.top_k(h, WIDTH)[0],
    "top_k places": lambda h: h + real(lax.top_k(h, WIDTH)[1]),
    "top_k both": lambda h: lax.top_k(h, WIDTH)[0] + real(lax.top_k(h, WIDTH)[1]),
    "top_k one-hot": lambda h: h * jax.nn.one_hot(lax.top_k(h, 2)[1], WIDTH).sum(1),
    "sort second": lambda h: lax.sort((h, 2 * h), num_keys=1, dimension=1)[1],
    "sort three": lambda h: sum(lax.sort((h, 2 * h, -h), num_keys=1, dimension=1)),
    "argsort": lambda h: h + real(jnp.argsort(h, axis=1)),
    "reduce second": lambda h: h + real(highest(h)[1])[:, None],
    "reduce both": lambda h: h * highest(h)[0][:, None] + real(highest(h)[1])[:, None],
    "split second": lambda h: jnp.concatenate(lax.split(h, (3, 5), axis=1)[::-1], 1),
    "custom_jvp second": lambda h: sin_cos(h)[1],
    "custom_jvp both": lambda h: sum(sin_cos(h)),
    "random bits": lambda h: h + 1e-10 * real(
        lax.rng_bit_generator(jnp.zeros(4, jnp.uint32), (WIDTH,), dtype=jnp.uint32)[1]),
    "qr second": lambda h: h + jnp.linalg.qr(matrices(h))[1].sum(1),
    "eigh first": lambda h: h + jnp.linalg.eigh(matrices(h))[0],
    "svd second": lambda h: h + jnp.linalg.svd(matrices(h))[1],
    "lu both": lambda h: h + lax.linalg.lu(matrices(h))[0].sum(1) + real(
        lax.linalg.lu(matrices(h))[1]),
}  # fmt: skip
EMPTY = {
    "roll": lambda h: jnp.roll(h, 0, axis=1),
    "split": lambda h: jnp.concatenate(jnp.split(h, [0], axis=1), 1),
    "slice": lambda h: jnp.concatenate([h[:, :0], h, h[:, WIDTH:]], 1),
    "pad": lambda h: h * jnp.pad(h[:, :0], ((0, 0), (0, WIDTH)), constant_values=2.0),
    "sum": lambda h: h + h[:, :0].sum(1, keepdims=True),
    "prod": lambda h: h * h[:, :0].prod(1, keepdims=True),
    "max": lambda h: h + h[:, :0].max(1, keepdims=True, initial=1.0),
    "relu": lambda h: jnp.concatenate([h, 2 * jax.nn.relu(h[:, :0]) + 1], 1),
    "dense": lambda h: h + h[:, :0] @ jnp.ones((0, WIDTH)),
    "reshape": lambda h: jnp.concatenate([h, h[:, :0].reshape(h.shape[0], 0, 5).sum(2)], 1),
    "repeat": lambda h: jnp.concatenate([h, jnp.repeat(h, 0, axis=1)], 1),
    "sort": lambda h: jnp.concatenate([h, jnp.sort(h[:, :0], 1)], 1),
    "top_k": lambda h: jnp.concatenate([h, lax.top_k(h, 0)[0]], 1),
    "gather": lambda h: jnp.concatenate([h, h[:, jnp.zeros(0, int)]], 1),
    "softmax": lambda h: jnp.concatenate([h, jax.nn.softmax(h[:, :0], 1)], 1),
    "cumsum": lambda h: jnp.concatenate([h, jnp.cumsum(h[:, :0], 1)], 1),
    "transpose": lambda h: jnp.concatenate([h, h[:, :0].T.T], 1),
    "integers": lambda h: jnp.concatenate([h, real(h[:, :0] > 0)], 1),
    "convolution": lambda h: jnp.concatenate([h, lax.conv_general_dilated(
        h[:, :0, None], jnp.ones((1, 1, 2)), (1,), "SAME",
        dimension_numbers=("NWC", "WIO", "NWC")).reshape(h.shape[0], 0)], 1),
}  # fmt: skip
CASES = {**SEVERAL, **{f"empty {name}": middle for name, middle in EMPTY.items()}}
IN_NO_FILE = ("reduce ", "qr ", "eigh ", "svd ", "lu ")


def apply_of(name):
    middle = CASES[name]
    return lambda p, x: middle(jax.nn.relu(x @ p["a"])) @ p["b"]


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_every_reading_takes_it(name):
    apply = apply_of(name)
    expected = np.asarray(jax.jit(apply)(PARAMS, IMAGES))
    model = hcjax.trace(apply, PARAMS, IMAGES[:1])

    def logits(model):
        return np.asarray(jax.jit(model.apply)(model.params, IMAGES))

    def packed(model):
        if name.startswith(IN_NO_FILE):
            with pytest.raises(TypeError, match=r"test_results.py:\d+ .*no file holds a"):
                hcjax.pack(model)
        else:
            again = hcjax.unpack(hcjax.pack(model))
            np.testing.assert_array_equal(logits(again), logits(model))

    folded = hcjax.fold(model)
    for each in (model, folded):
        np.testing.assert_allclose(logits(each), expected, rtol=1e-4, atol=1e-4)
    packed(folded)
    assert hcjax.cost(folded).macs >= 6 * 8 + 8 * 3
    hcjax.graph.channels(folded)
    try:
        small = hcjax.shrink(folded, keep=0.5, images=IMAGES)
    except ConfigError as error:
        assert "nothing that may be cut" in str(error)
    else:
        assert np.isfinite(logits(small)).all()
    ranges = hcjax.calibrate(folded, IMAGES)
    fake = hcjax.fake_quantize(folded, ranges)
    int8 = hcjax.int8(fake)
    np.testing.assert_array_equal(logits(int8), logits(fake))
    packed(int8)


def test_a_second_result_and_an_empty_array_are_calibrated_and_quantized():
    def apply(p, x):
        h = jnp.roll(jax.nn.relu(x @ p["a"]), 0, axis=1)
        return (h + real(highest(h)[1])[:, None]) @ p["b"]

    model = hcjax.trace(apply, PARAMS, IMAGES[:1])
    assert all(len(op.outputs) == 1 for op in model.graph.ops)
    fake = hcjax.fake_quantize(model, hcjax.calibrate(model, IMAGES, method="minmax"))
    assert any("reduce" in line for line in fake.floats)


@pytest.mark.slow
def test_sensitivity_takes_results_and_arrays_without_elements():
    for name in ("reduce second", "empty roll"):
        model = hcjax.trace(apply_of(name), PARAMS, IMAGES[:1])
        labels = np.zeros(len(IMAGES), int)
        assert len(hcjax.sensitivity(model, IMAGES, labels, levels=(0.0, 0.5)).rows) == 2


def test_a_solver_that_holds_the_batch_size_is_named_when_traced():
    def apply(p, x):
        h = jax.nn.relu(x @ p["a"])
        return jnp.linalg.solve(matrices(h), h[..., None])[..., 0] @ p["b"]

    with pytest.raises(
        TypeError, match=r"test_results.py:\d+ .*a graph holds no custom_linear_solve"
    ):
        hcjax.trace(apply, PARAMS, IMAGES[:1])
