"""The whole chain on what networks seldom do: each a few lines, through fold to a packed file."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import hcjax
from hcjax.errors import ConfigError
from hcjax.graph.qtensor import QTensor
from tests import draws
from tests.graph import reference
from tests.graph.networks import NETWORKS, logits, ours, randomized

SEEDS = []


@pytest.fixture(autouse=True)
def _the_same_numbers_whatever_ran_before():
    SEEDS[:] = range(9)


def normal(*shape):
    return draws.normal(*shape, seed=SEEDS.pop())


def chain(apply, params, images, error=0.05, whole=True, packed=True):
    """Returns (fake-quantized, int8) networks, after checking that they and a file are one."""
    expected = np.asarray(apply(params, images), np.float32)
    model = hcjax.fold(hcjax.trace(apply, params, images[:1]))
    fake = hcjax.fake_quantize(model, hcjax.calibrate(model, images, method="minmax"))
    small = hcjax.int8(fake)
    got = logits(small, images)
    assert np.abs(got - expected).max() < error * np.ptp(expected)
    np.testing.assert_array_equal(got, logits(fake, images))
    if packed:
        np.testing.assert_array_equal(logits(hcjax.unpack(hcjax.pack(small)), images), got)
    np.testing.assert_array_equal(logits(small, images[:1]), got[:1])
    assert (small.floats == ()) == whole
    if whole:
        np.testing.assert_array_equal(got, reference.logits(small, images))
    for path, leaf in small.params.items():
        floating = not isinstance(leaf, QTensor) and jnp.issubdtype(leaf.dtype, jnp.floating)
        assert not floating or leaf.ndim < 2, path
    return fake, small


def half(apply):
    """Returns a network that computes in bfloat16."""
    cast = lambda tree: jax.tree.map(lambda v: v.astype(jnp.bfloat16), tree)
    return lambda p, x: apply(cast(p), cast(x)).astype(jnp.float32)


def gated(activation):
    def apply(p, x):
        y = activation(x @ p["w"])
        y = y * jax.nn.hard_sigmoid(y.mean((1, 2)) @ p["e"])[:, None, None]
        return y.mean((1, 2)) @ p["o"]

    params = {"w": jnp.zeros((4, 6)) - 0.1, "e": jnp.zeros((6, 6)), "o": jnp.zeros((6, 3))}
    return apply, randomized(params), jnp.ones((1, 5, 5, 4))


def tiny():
    network = hcjax.models.create("resnet_tiny", input_shape=(16, 16, 3), dtype="bfloat16")
    _, params, image = ours("resnet_tiny", (16, 16, 3))()
    state = jax.eval_shape(network.init, jax.random.key(0))[1]
    state = jax.tree.map(lambda s: jnp.full(s.shape, 0.02, s.dtype), state)
    return hcjax.inference(network.apply, state), params, image


BFLOAT16 = {
    "linen": lambda: NETWORKS["linen"](),
    "resnet_tiny": tiny,
    "hard_swish": lambda: gated(jax.nn.hard_swish),
    "silu": lambda: gated(jax.nn.silu),
    "gelu": lambda: gated(jax.nn.gelu),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BFLOAT16)
def test_bfloat16_goes_through_the_whole_chain(name):
    apply, params, image = BFLOAT16[name]()
    apply = apply if name == "resnet_tiny" else half(apply)
    chain(apply, params, draws.normal(8, *image.shape[1:], seed=1))


@pytest.mark.slow
def test_what_every_image_has_the_same_of_is_joined_to_it_in_integers():
    def apply(p, x):
        token = jnp.broadcast_to(p["token"], (x.shape[0], 1, 5))
        y = jnp.concatenate([token, x, jnp.zeros((x.shape[0], 2, 5))], 1)
        y = jax.nn.relu(y @ p["w"])
        return y[:, 0] @ p["o"] + y.mean(1) @ p["o"]

    params = {"token": normal(1, 1, 5), "w": normal(5, 5), "o": normal(5, 4)}
    fake, _ = chain(apply, params, normal(8, 6, 5))
    gradient = jax.jit(jax.grad(lambda p: fake.apply(p, jnp.ones((2, 6, 5))).sum()))(fake.params)
    assert jnp.abs(gradient["token/value"]).max() > 0


def test_an_op_in_float_reads_constants_at_any_batch_size():
    def apply(p, x):
        y = x @ p["w"]
        y = (y - y.mean(-1, keepdims=True)) * lax.rsqrt(y.var(-1, keepdims=True) + 1e-5)
        return jax.nn.relu(y * p["scale"] + p["bias"]).mean((1, 2)) @ p["o"]

    params = {"w": normal(4, 6), "scale": normal(6), "bias": normal(6), "o": normal(6, 3)}
    chain(apply, params, normal(8, 5, 5, 4), whole=False)


@pytest.mark.parametrize(
    "between",
    [
        lambda y, p: jnp.maximum(y, p["low"]),
        lambda y, p: jnp.clip(y, p["low"], 1.5),
        lambda y, p: 1.0 / (jax.nn.relu(y) + 1.0),
        lambda y, p: 1.0 / (jnp.abs(p["w"]).sum() + y),
    ],
)
def test_a_function_may_follow_a_layer_at_once(between):
    params = {"w": normal(6, 5) / 3, "o": normal(5, 3), "low": -jnp.abs(normal(5))}
    chain(lambda p, x: between(x @ p["w"], p) @ p["o"], params, normal(8, 6))


@pytest.mark.slow
def test_a_clip_whose_limit_is_learned_goes_on_learning():
    apply = lambda p, x: jnp.minimum(jax.nn.relu(x @ p["w"]), p["cap"]) @ p["o"]
    params = {"w": normal(6, 5), "o": normal(5, 3), "cap": jnp.float32(1.5)}
    images = normal(8, 6)
    fake, _ = chain(apply, params, images)
    gradient = jax.jit(jax.grad(lambda p: (fake.apply(p, images) ** 2).sum()))(fake.params)
    assert jnp.abs(gradient["cap"]).max() > 0


@pytest.mark.parametrize(
    "between",
    [
        lambda y, p: y * (jax.nn.sigmoid(y.mean(-1, keepdims=True)) * p["c"]),
        pytest.param(
            lambda y, p: (p["c"] - y.mean(-1, keepdims=True)).sum(-1, keepdims=True) + y,
            marks=pytest.mark.slow,
        ),
        pytest.param(
            lambda y, p: (
                (y.mean(-1, keepdims=True) + jnp.ones((1, 1, 1, 6))).sum(-1)[..., None] + y
            ),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            lambda y, p: y.mean((1, 2), keepdims=True) - y.mean(-1, keepdims=True),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            lambda y, p: (y.mean((1, 2), keepdims=True) + y[:, :1]).sum((1, 2))[:, None, None] + y,
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_value_is_repeated_along_an_axis_of_what_it_meets(between):
    def apply(p, x):
        return jax.nn.relu(between(x @ p["w"], p)).mean((1, 2)) @ p["o"]

    params = {"w": normal(4, 6), "c": normal(6), "o": normal(6, 3)}
    images = normal(8, 5, 5, 4)
    fake, _ = chain(apply, params, images)
    gradient = jax.jit(jax.grad(lambda p: (fake.apply(p, images) ** 2).sum()))(fake.params)
    assert all(jnp.abs(g).max() > 0 for g in gradient.values() if g.ndim > 1)


def test_a_clip_that_repeats_what_it_clips_stays_in_float():
    def apply(p, x):
        y = x @ p["w"]
        y = jnp.maximum(y.mean(-1, keepdims=True), jnp.zeros((1, 1, 1, 6))).sum(-1)[..., None] + y
        return jax.nn.relu(y).mean((1, 2)) @ p["o"]

    chain(apply, {"w": normal(4, 6), "o": normal(6, 3)}, normal(8, 5, 5, 4), whole=False)


@pytest.mark.parametrize("low, high", [(2.0, 1.0), (-1.0, -2.0), (0.0, 1.0)])
def test_of_two_clips_the_last_one_decides(low, high):
    clip = lambda y: jnp.maximum(jnp.minimum(y, high), low)
    params = {"w": normal(6, 6), "o": normal(6, 3)}
    chain(lambda p, x: (clip(x @ p["w"]) + x) @ p["o"], params, normal(8, 6))


def test_indices_and_what_follows_from_them_stay_in_float_and_are_listed():
    def apply(p, x):
        x = x * (x.argmax(1)[:, None] > 2)
        y = x @ p["w"]
        return jnp.where((y > 0).any(1)[:, None], y, -y) @ p["o"]

    params = {"w": normal(6, 6), "o": normal(6, 3)}
    _, small = chain(apply, params, normal(8, 6), whole=False, packed=False)
    assert small.floats[0].startswith("argmax ('N', 6) at test_seldom.py:")


def test_bad_calls_say_what_is_wrong_before_a_wrong_number_comes_of_them():
    params, images = {"w": normal(6, 5), "o": normal(5, 3)}, normal(8, 6)
    model = hcjax.trace(lambda p, x: jax.nn.relu(x @ p["w"]) @ p["o"], params, images[:1])
    with pytest.raises(ValueError, match="batch_size must be at least 1, got -1"):
        hcjax.calibrate(model, images, batch_size=-1)
    ranges = hcjax.calibrate(model, images)
    for bits in (8.0, "8", None, {"w": 4.0}):
        with pytest.raises(ConfigError, match=r"bits.* must be an int, or pattern -> int, got"):
            hcjax.int8(model, ranges, bits=bits)
    for options in ({"bits": {"(": 4}}, {"floats": "("}, {"activation_bits": {"(": 4}}):
        with pytest.raises(ConfigError, match=r"'\(' is no regular expression: missing \)"):
            hcjax.int8(model, ranges, **options)
    fake = hcjax.fake_quantize(model, ranges, bits=np.int64(4), input_bits={"o": np.int8(4)})
    small = hcjax.int8(fake)
    assert small.params["w"].bits == 4
    with pytest.raises(ConfigError, match="bits: the model is quantized already"):
        hcjax.int8(fake, bits=4)
    for again in (hcjax.int8, lambda m: hcjax.fake_quantize(m, ranges)):
        with pytest.raises(ValueError, match="the model is in integers already"):
            again(small)
    for path, wrong in (("w", jnp.nan), ("w", jnp.inf), ("o/kernel_step", jnp.nan)):
        broken = fake.replace(params=fake.params | {path: fake.params[path] * wrong})
        with pytest.raises(ValueError, match=f"^{path} is not finite"):
            hcjax.int8(broken)


@pytest.mark.slow
def test_weights_of_any_op_in_float_are_stored_as_integers():
    def apply(p, x):
        y = jnp.tanh(x * p["position"])
        y = jax.nn.relu(jnp.einsum("ntc,chd->nthd", y, p["w"])).mean(1)
        return y.reshape(x.shape[0], -1) @ p["o"]

    params = {"position": normal(6, 5), "w": normal(5, 2, 3), "o": normal(6, 4)}
    images = normal(8, 6, 5)
    fake, small = chain(apply, params, images, whole=False)
    kernels = [leaf for leaf in small.params.values() if isinstance(leaf, QTensor)]
    assert sorted(q.size for q in kernels) == [24, 30, 30]
    gradient = jax.jit(jax.grad(lambda p: (fake.apply(p, images) ** 2).sum()))(fake.params)
    assert all(jnp.abs(g).max() > 0 for g in gradient.values() if g.ndim > 1)
