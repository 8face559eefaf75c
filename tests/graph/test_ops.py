"""What follows from an op's facts: integers, files, channels; and equations that say more."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import hcjax
from hcjax.errors import ConfigError
from hcjax.graph import channels
from hcjax.graph.ops import KINDS, Kind, kind_of
from hcjax.graph.ops.kind import ELEMENTWISE

RNG = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape) / np.sqrt(shape[-2]), jnp.float32)


def logits(model, inputs):
    return np.asarray(jax.jit(model.apply)(model.params, inputs))


def integers(model, inputs):
    """Returns a model's int8 form, which answers as the fake-quantized one and as its file."""
    fake = hcjax.fake_quantize(model, hcjax.calibrate(model, inputs))
    small = hcjax.int8(fake)
    np.testing.assert_array_equal(logits(small, inputs), logits(fake, inputs))
    back = hcjax.unpack(hcjax.pack(small))
    np.testing.assert_array_equal(logits(back, inputs), logits(small, inputs))
    expected = logits(model, inputs)
    assert np.abs(logits(small, inputs) - expected).max() < 0.05 * np.ptp(expected)
    return small


PARAMS = {"a": normal(3, 8), "b": normal(8, 5)}
IMAGES = jnp.asarray(RNG.uniform(-1, 1, size=(32, 4, 4, 3)), jnp.float32)


def between(middle):
    """Returns a network with a function of float[N, 4, 4, 8] between two layers, traced."""

    def apply(p, x):
        return middle(jax.nn.relu(x @ p["a"])).mean((1, 2)) @ p["b"]

    return hcjax.trace(apply, PARAMS, IMAGES)


@pytest.mark.slow
def test_min_pools_are_integers_and_can_be_packed():
    pool = lambda x: lax.reduce_window(x, jnp.inf, lax.min, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    small = integers(between(lambda x: pool(x) + x.min((1, 2), keepdims=True)), IMAGES)
    assert small.floats == ()
    pooled = [op for op in small.graph.ops if op.kind == "reduce_window_min"]
    assert [op.dtype for op in pooled] == [jnp.int8]


@pytest.mark.slow
def test_a_nearest_neighbour_resize_moves_integers():
    resize = lambda x: jax.image.resize(x, (x.shape[0], 8, 8, 8), "nearest")
    model = between(resize)
    small = integers(model, IMAGES)
    assert small.floats == ()
    assert {op.dtype for op in small.graph.ops if op.kind == "gather"} == {jnp.dtype(jnp.int8)}
    (group,) = channels(model).groups
    assert [(s.path, s.axis) for s in group.slices] == [("a", 1), ("b", 0)]
    half = hcjax.shrink(model, keep=0.5)
    assert half.params["a"].shape[1] < 8
    assert half.apply(half.params, IMAGES).shape == (32, 5)


def test_a_stopped_gradient_does_not_keep_trim_from_a_channel():
    model = between(lambda x: lax.stop_gradient(x) * 0.5 + x)
    params = {**model.params, "a": model.params["a"].at[:, :3].set(0.0)}
    small = hcjax.trim(model.replace(params=params))
    assert small.params["a"].shape == (3, 5)


@pytest.mark.parametrize("mode", ["promise_in_bounds", "clip", "fill"])
def test_a_look_up_of_rows_is_traced_packed_cut_and_in_integers(mode):
    params = {"rows": normal(20, 8), "w": normal(8, 5)}
    tokens = jnp.asarray(RNG.integers(0, 20, size=(64, 6)), jnp.int32)

    def apply(p, x):
        return jax.nn.relu(p["rows"].at[x].get(mode=mode)).mean(1) @ p["w"]

    model = hcjax.trace(apply, params, tokens)
    (group,) = channels(model).groups
    assert [(s.path, s.axis) for s in group.slices] == [("rows", 1), ("w", 0)]
    small = integers(model, tokens)
    assert small.params["rows"].values.dtype == jnp.int8 and small.floats == ()
    if mode != "promise_in_bounds":  # in float jax gives NaN, which no integer is, or the last row
        beyond = logits(small, jnp.full((1, 6), 99))
        np.testing.assert_array_equal(beyond, logits(small, jnp.full((1, 6), 19)))


@pytest.mark.slow
def test_both_results_of_top_k_and_of_a_sort_of_two_arrays_are_ops():
    def middle(x):
        values, places = lax.top_k(x, 3)
        keys, others = lax.sort((x, -x), num_keys=1)
        return jnp.concatenate([values, places * 0.1, keys[..., :1], others[..., :1]], -1)

    model = between(middle)
    assert all(len(op.outputs) == 1 for op in model.graph.ops)
    expected = jax.jit(lambda p, x: middle(jax.nn.relu(x @ p["a"])).mean((1, 2)) @ p["b"])
    np.testing.assert_allclose(logits(model, IMAGES), expected(PARAMS, IMAGES), rtol=1e-5)
    back = hcjax.unpack(hcjax.pack(model))
    np.testing.assert_allclose(logits(back, IMAGES), logits(model, IMAGES), rtol=1e-5)
    assert any(text.startswith("top_k ") for text in integers(model, IMAGES).floats)


def test_precision_is_kept_by_transforms_and_files():
    def apply(p, x):
        return jnp.dot(jax.nn.relu(x @ p["a"]).mean((1, 2)), p["b"], precision="highest") * 2.0

    model = hcjax.trace(apply, PARAMS, IMAGES)
    for each in (model, hcjax.fold(model), hcjax.unpack(hcjax.pack(hcjax.fold(model)))):
        text = str(jax.make_jaxpr(each.apply)(each.params, IMAGES))
        assert text.count("HIGHEST") == 2  # of both operands of one product
    before = hcjax.trace(lambda p, x: (x @ p["a"]).mean((1, 2)) @ p["b"], PARAMS, IMAGES)
    assert b"precision" not in _head(before) and b"precision" in _head(model)


def _head(model):
    import zlib

    data = hcjax.pack(model)[12:]
    return zlib.decompress(data[4 : 4 + int.from_bytes(data[:4], "little")])


def test_an_equation_that_says_more_than_its_kind_is_kept_and_no_file_holds_it():
    """Sums of int8 are int8 in the user's equation and int32 in the integer program."""

    def apply(p, x):
        small = (100 * x).astype(jnp.int8)
        return (small * small).astype(jnp.float32).mean((1, 2)) @ p["w"]

    model = hcjax.trace(apply, {"w": normal(3, 5)}, IMAGES)
    (product,) = [op for op in model.graph.ops if op.kind == "mul" and op.dtype == jnp.int8]
    assert kind_of(product) is None
    expected = jax.jit(apply)(model.params, IMAGES)
    np.testing.assert_array_equal(logits(model, IMAGES), expected)
    with pytest.raises(TypeError, match=r"test_ops.py:\d+ .*: no file holds a mul"):
        hcjax.pack(model)


def test_a_file_says_what_a_gather_does_beyond_its_operand_by_numbers_that_stay():
    names = {mode.name: mode.value for mode in lax.GatherScatterMode}
    assert names["CLIP"] == 1 and names["FILL_OR_DROP"] == 2 and names["PROMISE_IN_BOUNDS"] == 3


def test_a_kind_that_is_added_is_read_by_all(monkeypatch):
    """An op that no table knows is opaque; one entry makes it known to every reading."""
    model = between(lambda x: lax.erf_inv(0.5 * jnp.tanh(x)))
    monkeypatch.delitem(KINDS, "erf_inv")
    opaque = between(lambda x: lax.erf_inv(0.5 * jnp.tanh(x)))
    with pytest.raises(TypeError, match="no file holds a erf_inv"):
        hcjax.pack(opaque)
    assert channels(opaque).groups == ()
    monkeypatch.setitem(KINDS, "erf_inv", Kind(ELEMENTWISE, lambda p, x: lax.erf_inv(x)))
    again = between(lambda x: lax.erf_inv(0.5 * jnp.tanh(x)))
    assert hcjax.pack(again) == hcjax.pack(model)
    assert len(channels(again).groups) == 1 and integers(again, IMAGES).floats == ()


def summed(**facts):
    """Returns a Kind like that of `cumsum`, with some facts changed."""
    kind = KINDS["cumsum"]
    return kind._replace(**facts)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (lambda params, x: x, "kind 'cumsum' must be a Kind, got function"),
        (summed(family="sums"), "kind 'cumsum': unknown family 'sums'; did you mean 'sum'?"),
        (summed(fields="axis"), "fields must be a tuple of names, got 'axis'"),
        (summed(terms=None), 'family "sum" needs terms=, how many numbers are added'),
        (summed(traits=frozenset({"keep zero"})), "unknown trait 'keep zero'; did you mean 'keeps"),
        (summed(decode={"axes": tuple}), "decode has 'axes', which is not among its fields"),
        (summed(family="layer"), 'family "layer" needs layer='),
        (summed(mixes=lambda op, shapes: (7,)), r"mixes must give axes of the 4 of the first"),
        (summed(mixes=lambda op, shapes: op.params["axes"]), r"with the params \['axis', .*'axes'"),
        (summed(origin=lambda op, shapes: (0, 1, 2)), r"each of the 4 axes .* gives \(0, 1, 2\)"),
        (summed(origin=lambda op, shapes: (0, 1, 2, 4)), r"each of the 4 axes .* \(0, 1, 2, 4\)"),
    ],
)
def test_facts_that_cannot_be_are_named_when_a_network_is_traced(kind, message, monkeypatch):
    monkeypatch.setitem(KINDS, "cumsum", kind)
    with pytest.raises(ConfigError, match=message):
        between(lambda x: jnp.cumsum(x, axis=1))
