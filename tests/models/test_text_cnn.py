"""The network for text: in NumPy, in training, and through trace, fold, integers and a file."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hcjax
from hcjax.errors import ConfigError
from hcjax.models.text_cnn import text_cnn

LENGTH, TOKENS, CLASSES = 6, 20, 5
SIZES = {"num_classes": CLASSES, "input_shape": (LENGTH,), "tokens": TOKENS}
RNG = np.random.default_rng(0)
TEXT = jnp.asarray(RNG.integers(0, TOKENS, (16, LENGTH)), jnp.int32)


def tiny(**options):
    """Returns (network, its parameters, none of which is 0)."""
    network = text_cnn(**{**SIZES, "width": 4, "filters": (8, 8), **options})
    params, state = network.init(jax.random.key(0))
    assert state == {}
    noise = lambda p: p + 0.1 * jnp.asarray(RNG.normal(size=p.shape), jnp.float32)
    return network, jax.tree.map(noise, params)


def in_numpy(params, text):
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    x = p["embed"]["table"][text]
    for n in (1, 2):
        padded = np.pad(x, [(0, 0), (1, 1), (0, 0)])
        windows = np.stack([padded[:, i : i + x.shape[1]] for i in range(3)], 2)
        kernel = p[f"conv{n}"]["kernel"][:, 0]
        y = np.maximum(np.einsum("nlki,kio->nlo", windows, kernel) + p[f"conv{n}"]["bias"], 0)
        x = x + y if x.shape == y.shape else y
    placed = (x * p["places"]["kernel"][:, 0, 0]).sum(1)
    return np.concatenate([x.max(1), placed], -1) @ p["dense1"]["kernel"] + p["dense1"]["bias"]


def test_it_is_what_its_docstring_says():
    network, params = tiny()
    logits, _ = jax.jit(network.apply)(params, {}, TEXT)
    assert (logits.shape, logits.dtype) == ((16, CLASSES), jnp.float32)
    np.testing.assert_allclose(logits, in_numpy(params, TEXT), rtol=1e-4, atol=1e-4)


def test_every_parameter_is_trained_and_unknown_words_are_as_well():
    network, params = tiny(token_dropout=0.5)
    text = jnp.where(TEXT == 1, 2, TEXT)

    @jax.jit
    def slope(params, key):
        return jax.grad(lambda p: network.apply(p, {}, text, train=True, key=key)[0].var())(params)

    one, again, other = (slope(params, jax.random.key(seed)) for seed in (1, 1, 2))
    assert all(float(abs(leaf).sum()) > 0 for leaf in jax.tree.leaves(one))
    assert float(abs(one["embed"]["table"][1]).sum()) > 0  # no text has it: dropout does
    jax.tree.map(np.testing.assert_array_equal, one, again)
    assert not np.allclose(one["dense1"]["kernel"], other["dense1"]["kernel"])


def test_all_of_it_is_folded_shrunk_packed_and_in_integers():
    network, params = tiny()
    model = hcjax.fold(hcjax.trace(hcjax.inference(network.apply, {}), params, TEXT))
    expected = network.apply(params, {}, TEXT)[0]
    np.testing.assert_allclose(model.apply(model.params, TEXT), expected, rtol=1e-4, atol=1e-5)
    ranges = hcjax.calibrate(model, TEXT)
    fake = hcjax.fake_quantize(model, ranges, bits={"embed": 4}, activation_bits=8)
    small = hcjax.int8(fake)
    assert small.floats == () and small.params["embed/table"].bits == 4
    again = hcjax.unpack(hcjax.pack(small))
    for each in (small, again):
        np.testing.assert_array_equal(each.apply(each.params, TEXT), fake.apply(fake.params, TEXT))
    half = hcjax.shrink(model, keep=0.5, images=TEXT)
    assert half.params["conv2/kernel"].shape[-1] < 8


@pytest.mark.parametrize(
    "change, message",
    [
        ({"input_shape": (6, 6, 1)}, r"must be \(L,\), the length of a text"),
        ({"tokens": 1}, "tokens must be >= 2"),
        ({"filters": ()}, "filters not empty"),
        ({"filters": (8, 0)}, "counts >= 1"),
        ({"width": 0}, "counts >= 1"),
        ({"size": 2}, "size must be odd"),
        ({"token_dropout": 1.0}, r"token_dropout must be in \[0, 1\)"),
    ],
)
def test_options_out_of_range_are_named(change, message):
    with pytest.raises(ConfigError, match=message):
        text_cnn(**(SIZES | change))
