"""Zero points: where they pay, what they mean, and that all three programs agree with them."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hcjax
from hcjax.quantize.calibration import grids
from tests.draws import normal
from tests.graph import reference


def few(cases, *ordinary):
    """Returns the names of cases; all but a few are slow."""
    return [c if c in ordinary else pytest.param(c, marks=pytest.mark.slow) for c in cases]


def logits(model, images):
    return np.asarray(jax.jit(model.apply)(model.params, images))


def decibels(expected, got):
    """10 log10(variance among the images / squared error)."""
    expected, got = np.asarray(expected, np.float64), np.asarray(got, np.float64)
    return 10 * np.log10(((expected - expected.mean(0)) ** 2).sum() / ((expected - got) ** 2).sum())


def forms(apply, params, images, *, in_numpy=True, trains=False, **options):
    """Returns (float logits, int8 logits, int8 model) after checking that all programs agree.

    trains: whether to look at the gradients too, which takes as long as all else.
    """
    model = hcjax.fold(hcjax.trace(apply, params, images[:1]))
    fake = hcjax.fake_quantize(model, hcjax.calibrate(model, images), **options)
    small = hcjax.int8(fake)
    got = logits(small, images)
    np.testing.assert_array_equal(got, logits(fake, images))
    if in_numpy:
        np.testing.assert_array_equal(got, reference.logits(small, np.asarray(images)))
    again = hcjax.unpack(hcjax.pack(small))
    np.testing.assert_array_equal(logits(again, images), got)
    if trains:
        gradients = jax.jit(jax.grad(lambda p: (fake.apply(p, images) ** 2).mean()))(fake.params)
        assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))
        assert sum(map(np.any, jax.tree.leaves(gradients))) > 0.6 * len(jax.tree.leaves(gradients))
    return logits(model, images), got, small


def uniform(low, high, *shape, seed=0):
    return jax.random.uniform(jax.random.key(seed), shape, minval=low, maxval=high)


WEIGHTS = {"a": normal(8, 32, seed=1) / 3, "b": normal(32, 5, seed=2) / 5}


SLOW = [
    pytest.param(*each, marks=pytest.mark.slow)
    for each in ((-1010, -1000), (1e5, 1.01e5), (0, 255))
]


@pytest.mark.parametrize("low, high", [(1000, 1010), *SLOW])
def test_a_network_that_normalises_its_images_itself_keeps_its_precision(low, high):
    middle, half = (low + high) / 2, (high - low) / 2

    def apply(p, x):
        return jax.nn.relu((x - middle) / half @ p["a"]) @ p["b"]

    images = uniform(low, high, 256, 8)
    expected, got, small = forms(apply, WEIGHTS, images, trains=low < 0)
    near = forms(lambda p, x: jax.nn.relu(x @ p["a"]) @ p["b"], WEIGHTS, (images - middle) / half)
    assert decibels(expected, got) > min(decibels(*near[:2]), 40) - 1.5  # as with images near 0
    assert small.floats == ()


def test_images_far_from_zero_are_convolved_with_the_error_of_their_spread_alone():
    images = uniform(1000, 1010, 64, 6, 6, 3)
    params = {"k": normal(3, 3, 3, 8, seed=1), "b": normal(8, 4, seed=2)}

    def apply(p, x):
        y = jax.lax.conv_general_dilated(
            x, p["k"], (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        y = y - 1005 * p["k"].sum((0, 1, 2))
        return y.mean((1, 2)) @ p["b"]

    expected, got, _ = forms(apply, params, images)
    assert decibels(expected, got) > 20
    with pytest.warns(UserWarning, match=r"images: 2\.\d dB, range 1000 to 1010, step 7.*zero_poi"):
        _, without, _ = forms(apply, params, images, zero_points=False)
    assert decibels(expected, without) < 5


CONVOLUTIONS = {
    "same": ((3, 3, 4, 6), {"padding": "SAME"}),
    "strided": ((3, 3, 4, 6), {"padding": ((0, 1), (2, 0)), "window_strides": (2, 1)}),
    "cropped": ((3, 3, 4, 6), {"padding": ((-1, 2), (1, -1))}),
    "dilated": ((3, 3, 4, 6), {"padding": "SAME", "rhs_dilation": (2, 1)}),
    "transposed": ((3, 3, 4, 6), {"padding": ((2, 2), (1, 1)), "lhs_dilation": (2, 3)}),
    "grouped": ((3, 3, 2, 6), {"padding": "SAME", "feature_group_count": 2}),
    "depthwise": ((3, 3, 1, 4), {"padding": "SAME", "feature_group_count": 4}),
}


@pytest.mark.parametrize("name", few(CONVOLUTIONS, "transposed"))
def test_padding_is_zero_and_not_the_integer_zero(name):
    shape, options = CONVOLUTIONS[name]
    options = {"window_strides": (1, 1), **options}
    params = {"k": normal(*shape, seed=1) / 4, "b": normal(shape[-1], 3, seed=2)}

    def apply(p, x):
        x = jax.lax.conv_general_dilated(
            x, p["k"], dimension_numbers=("NHWC", "HWIO", "NHWC"), **options
        )
        return jax.nn.relu(x).sum((1, 2)) @ p["b"]

    images = uniform(0, 1, 16, 7, 7, 4) ** 4
    expected, got, small = forms(apply, params, images, trains=name == "dilated")
    assert decibels(expected, got) > 25
    assert any(op.kind == "pad" for op in small.graph.ops)
    assert not any(op.params.get("padding", ((0, 0),))[0] != (0, 0) for op in small.graph.ops)


READERS = {
    "sum": lambda x: x.sum((1, 2)),
    "padded average": lambda x: jax.lax.reduce_window(
        x, 0.0, jax.lax.add, (1, 3, 3, 1), (1, 2, 2, 1), "SAME"
    ).mean((1, 2)),
    "padded maximum": lambda x: jax.lax.reduce_window(
        x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "SAME"
    ).mean((1, 2)),
    "cumulative": lambda x: jnp.cumsum(x, 1)[:, -2:].mean((1, 2)),
    "pad": lambda x: jnp.pad(x, ((0, 0), (1, 2), (0, 1), (0, 0))).mean((1, 2)),
    "concatenated": lambda x: jnp.concatenate([x, x[:, ::-1] * 0.5], 2).mean((1, 2)),
    "table": lambda x: jnp.tanh(x - 0.1).mean((1, 2)),
    "swish": lambda x: jax.nn.swish(x - 0.3).mean((1, 2)),
    "residual": lambda x: (x + jnp.roll(x, 1, 1) * 0.25).mean((1, 2)),
    "difference": lambda x: jax.nn.relu(0.4 - x).mean((1, 2)),
    "product": lambda x: (x * x.mean((1, 2), keepdims=True)).mean((1, 2)),
    "gate": lambda x: (x * jax.nn.sigmoid(x[:, ::-1])).mean((1, 2)),
    "attention": lambda x: jnp.einsum("nhwc,nhwd->ncd", x, x).mean(2),
    "relu twice": lambda x: (jax.nn.relu(x) + jnp.flip(jax.nn.relu(x), 1)).max((1, 2)),
    "clipped": lambda x: jnp.clip(x, 0.1, 0.5).mean((1, 2)),
    "sorted": lambda x: jnp.sort(x, 1)[:, 1].mean(1),
}


@pytest.mark.parametrize("name", few(READERS, "gate"))
def test_every_reader_of_a_value_knows_its_zero_point(name):
    params = {"a": normal(4, 6, seed=1) / 2, "b": normal(6, 3, seed=2)}
    images = uniform(0, 1, 16, 5, 5, 4)

    def apply(p, x):
        return READERS[name](jax.nn.relu(x @ p["a"] - 0.1)) @ p["b"]

    expected, got, small = forms(apply, params, images, trains=name == "gate")
    assert decibels(expected, got) > 25, decibels(expected, got)
    assert any(op.params.get("zero") for op in small.graph.ops)


def ranges_of(values):
    model = hcjax.trace(lambda p, x: x * p, jnp.ones(1), values[:1])
    return hcjax.calibrate(model, values), model.graph.inputs[0]


@functools.cache
def ranges_between(low, high):
    return ranges_of(uniform(low, high, 4000, 1))


def test_a_zero_point_is_chosen_only_where_it_shortens_the_steps():
    def chosen(low, high, bits=8, **options):
        ranges, number = ranges_between(low, high)
        options = {"zero_point": True, "holds_zero": False} | options
        return grids.grid(ranges, number, bits, **options), ranges.step(number, bits)

    for bits in range(2, 9):
        for low, high in ((0, 1), (-1, 1), (-0.1, 1), (-1, 0), (2, 3), (-3, -2), (0.5, 1)):
            found, (step, *_) = chosen(low, high, bits)
            if found.zero:
                assert found.scale <= 0.8 * step and found.qmax - found.qmin == 2**bits - 1
            for holds_zero in (False, True):
                found, _ = chosen(low, high, bits, holds_zero=holds_zero)
                assert -128 <= found.qmin < found.qmax <= 127
                assert not holds_zero or found.qmin <= found.zero <= found.qmax
    assert chosen(0, 1)[0][1:] == (-128, 127, -128)
    assert not chosen(0, 1, 7)[0].zero and not chosen(-1, 1)[0].zero
    assert not chosen(5, 6, zero_point=False)[0].zero
    assert chosen(5, 6, holds_zero=True)[0].zero == -128


def test_activations_behind_a_relu_gain_six_decibels():
    ranges, number = ranges_of(jnp.maximum(normal(4000, 1), 0))
    plain = grids.Grid(*ranges.step(number, 8))
    better = grids.grid(ranges, number, 8, zero_point=True, holds_zero=True)
    gain = grids.sqnr(ranges, number, better) - grids.sqnr(ranges, number, plain)
    assert 4 < gain < 7


def test_the_noise_of_a_grid_is_what_rounding_gives():
    for values in (uniform(1000, 1010, 4000, 1), normal(4000, 1), jnp.abs(normal(4000, 1)) ** 3):
        ranges, number = ranges_of(values)
        for bits in (3, 8):
            for zero_point in (False, True):
                found = grids.grid(ranges, number, bits, zero_point=zero_point, holds_zero=False)
                q = np.round(np.asarray(values, np.float64) / found.scale) + found.zero
                real = (np.clip(q, found.qmin, found.qmax) - found.zero) * found.scale
                assert abs(decibels(values, real) - grids.sqnr(ranges, number, found)) < 2


def test_pair_sums_of_activations_with_zero_points_stay_in_int16():
    images = uniform(0, 1, 16, 5, 5, 4)
    params = {"k": jnp.full((3, 3, 4, 6), -1.0), "b": jnp.ones((6, 3))}

    def apply(p, x):
        y = jax.lax.conv_general_dilated(
            x, p["k"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return y.sum((1, 2)) @ p["b"]

    _, _, small = forms(apply, params, images)
    (signed, *_), (unsigned, *_) = (
        hcjax.quantize.profiling.pair_sums(small, stored=dtype).values()
        for dtype in ("int8", "uint8")
    )
    assert signed == 2 * 128 * 127 < 2**15  # the worst there is, and it is reached here
    assert unsigned == 2 * 255 * 127 > 2**15


def test_noisy_activations_are_listed_with_their_range_and_a_cure():
    images = uniform(0, 1, 8000, 4).at[0, 0].set(1e4)
    model = hcjax.trace(lambda p, x: x @ p, normal(4, 3), images[:1])
    with pytest.warns(UserWarning, match=r"below 20 dB(.|\n)*images: .*1e\+04, .*percentile"):
        hcjax.fake_quantize(model, hcjax.calibrate(model, images, method="minmax"))
    with pytest.warns(UserWarning, match=r"activation_bits=\{'images': 8"):
        hcjax.fake_quantize(model, hcjax.calibrate(model, images[1:]), activation_bits=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hcjax.fake_quantize(model, hcjax.calibrate(model, images[1:]))


MASKS = {
    "added -100": lambda s, m: s + jnp.where(m, 0.0, -100.0),
    "added -1e4": lambda s, m: s + jnp.where(m, 0.0, -1e4),
    "added -1e9": lambda s, m: s + (1.0 - m) * -1e9,
    "added least": lambda s, m: s + jnp.where(m, 0.0, jnp.finfo(jnp.float32).min),
    "added -inf": lambda s, m: s + jnp.where(m, 0.0, -jnp.inf),
    "chosen -1e9": lambda s, m: jnp.where(m, s, -1e9),
    "chosen -inf": lambda s, m: jnp.where(m, s, -jnp.inf),
    "by the images": lambda s, m: jnp.where(s > -1, s, -1e9),
    "twice": lambda s, m: s + jnp.where(m, 0.0, -1e9) + jnp.where(m[::-1], 0.0, -1e9),
}


@pytest.mark.parametrize("name", few(MASKS, "chosen -inf"))
def test_masks_of_attention_stay_exact(name):
    size, length = 8, 6
    params = {k: normal(size, size, seed=n) / 3 for n, k in enumerate("qkv")}
    params["o"] = normal(size, 1, seed=4)
    mask = jnp.tril(jnp.ones((length, length), bool))

    def apply(p, x, hide=MASKS[name]):
        scores = jnp.einsum("ntd,nsd->nts", x @ p["q"], x @ p["k"])
        found = jax.nn.softmax(hide(scores, mask)) @ (x @ p["v"])
        return (found @ p["o"])[..., 0]  # a logit for each position

    images = normal(128, length, size, seed=5)
    trains = name == "chosen -inf"
    expected, got, small = forms(apply, params, images, in_numpy=False, trains=trains)
    assert decibels(expected, got) > 23  # as without a mask
    assert any("add" in each or "select_n" in each for each in small.floats)
    if name != "by the images":  # no position sees a later one
        np.testing.assert_array_equal(logits(small, images.at[:, -1].set(0))[:, :-1], got[:, :-1])


@pytest.mark.parametrize("tiny", few([1e-6, 1e-12, 1e-30, 0.0], 1e-6))
@pytest.mark.parametrize("where", ["logits", "hidden", "gain"])
def test_a_channel_that_is_nearly_dead_keeps_its_bias(tiny, where):
    weights = normal(8, 4, seed=1).at[:, 1].multiply(tiny)
    params = {"w": weights, "b": jnp.array([0.0, 3.0, 0.0, 1.0])}
    apply = {
        "logits": lambda p, x: x @ p["w"] + p["b"],
        "hidden": lambda p, x: jax.nn.relu(x @ p["w"] + p["b"]) @ (jnp.eye(4) + 0.1),
        "gain": lambda p, x: x @ p["w"] * 1e-9 + p["b"],
    }[where]
    images = normal(64, 8)
    model = hcjax.fold(hcjax.trace(apply, params, images[:1]))
    fake = hcjax.fake_quantize(model, hcjax.calibrate(model, images))
    small = hcjax.int8(fake)
    got, expected = logits(small, images), logits(model, images)
    np.testing.assert_array_equal(got, logits(fake, images))
    np.testing.assert_array_equal(got, reference.logits(small, np.asarray(images)))
    assert np.abs(got - expected).max() < 0.03 * np.abs(expected).max()
    if where != "hidden":
        assert np.abs(got[:, 1] - 3).max() < 0.03
