"""channels: which slices are one channel, on networks of several libraries."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import hcjax
from hcjax.graph.coupling.channels import channels
from hcjax.graph.coupling.remove import without
from tests.draws import normal
from tests.graph.cutting import ALL, check_cut, conv, traced, written


def without_some(model, found, rng, part=0.5):
    """Returns the model without random channels; each group keeps one at least."""
    gone = np.zeros(found.count, bool)
    for group in found.groups:
        count = int(rng.integers(1, max(2, round(2 * part * len(group.channels)))))
        count = min(count, len(group.channels) - 1)
        gone[rng.choice(group.channels, count, replace=False)] = True
    return without(model, found, gone)


FOLDED = ("linen", "haiku mobilenet", "dense", "resnet_tiny", "padded", "gated")


@pytest.mark.parametrize(
    "name, folded", [*((name, False) for name in ALL), *((name, True) for name in FOLDED)]
)
def test_a_network_without_channels_is_that_with_their_slices_zero(name, folded):
    model, images = traced(name, folded)
    small = without_some(model, channels(model), np.random.default_rng(0))
    assert len(small.cut) > 1
    check_cut(model, small, images)
    for op, whole in zip(small.graph.ops, model.graph.ops, strict=True):
        assert op.macs <= whole.macs
    expected = [op.macs for op in hcjax.trace(small.apply, small.params, images).graph.ops]
    assert sum(op.macs for op in small.graph.ops) == sum(expected)


SETTINGS = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}


@settings(max_examples=8, **SETTINGS)
@given(name=st.sampled_from(["gated", "padded", "shuffled", "dense"]), seed=st.integers(0, 999))
def test_any_channels_may_go(name, seed):
    model, images = traced(name)
    small = without_some(model, channels(model), np.random.default_rng(seed), 1.0)
    check_cut(model, small, images, alive=False)


def sizes(group):
    return {(s.path, s.axis): s.indices.shape for s in group.slices}


def test_a_flattened_channel_owns_a_stride_of_the_dense_layers_inputs():
    model, _ = traced("lenet5", True)
    first, second, third = channels(model).groups
    assert sizes(first) == {
        ("conv1/kernel", 3): (20, 1), ("conv1/bias", 0): (20, 1), ("conv2/kernel", 2): (20, 1)
    }  # fmt: skip
    (rows,) = (s.indices for s in second.slices if s.path == "dense1/kernel")
    assert rows.tolist() == [[c + 50 * n for n in range(16)] for c in range(50)]
    assert third.made_by == ("dense1/kernel",)


def test_channels_first_own_a_run_of_them():
    model, _ = traced("gated")
    (group,) = channels(model).groups
    (rows,) = (s.indices for s in group.slices if s.path == "c")
    # channel 0 is output 0, and 11 of the reversed half; depthwise makes two of each
    expected = [*range(72), *range(22 * 36, 24 * 36)]
    assert rows[0].tolist() == expected


def test_an_axis_that_is_split_is_cut_alike_in_each_part():
    model, _ = traced("shuffled")
    first, second, third = channels(model).groups
    # shuffled, 0 4 | 1 5 | 2 6 | 3 7, and then two groups that lose the same places
    assert sizes(first) == {("a", 3): (2, 4), ("b", 2): (2, 2)}
    assert first.slices[0].indices.tolist() == [[0, 2, 4, 6], [1, 3, 5, 7]]
    assert second.slices[0].indices.tolist() == [[0, 4], [1, 5], [2, 6], [3, 7]]
    assert second.slices[1].indices.tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert len(third.channels) == 8


def test_residual_branches_are_one_group_and_padded_shortcuts_an_offset():
    model, _ = traced("resnet20")
    groups = channels(model).groups
    stem = next(g for g in groups if "stem/conv/kernel" in g.made_by)
    assert len(stem.channels) == 16
    assert len(stem.made_by) == 1 + 9  # the second convolution of each of nine blocks
    widths = sorted(len(g.channels) for g in groups if len(g.made_by) > 1)
    assert widths == [16, 16, 32]  # what each stage adds
    (last,) = (g for g in groups if len(g.channels) == 32 and len(g.made_by) > 1)
    (dense,) = (s.indices for s in last.slices if s.path == "dense1/kernel")
    assert dense.ravel().tolist() == list(range(32, 64))


def test_statistics_are_cut_with_their_channels():
    model, images = traced("linen")
    small = hcjax.shrink(model, keep=0.5)
    cut = {(c.path, c.axis): len(c.kept) for c in small.cut}
    assert cut["batch_stats/BatchNorm_0/mean", 0] == cut["params/Conv_0/kernel", 3]
    assert len(small.graph.frozen) == len(model.graph.frozen) == 2
    check_cut(model, small, images)


def test_what_mixes_channels_is_kept_with_its_line():
    shapes = {"a": (3, 3, 3, 8), "b": (8, 6), "c": (6, 10)}

    @written(shapes)
    def normed(p, x):
        y = conv(x, p["a"])
        y = (y - y.mean(-1, keepdims=True)) @ p["b"]
        y = jnp.sort(y, -1).mean((1, 2))
        return y @ p["c"]

    apply, params, image = normed()
    found = channels(hcjax.trace(apply, params, image))
    assert found.groups == ()
    assert "test_channels.py" in found.kept["a", 3] and "mixes it" in found.kept["a", 3]
    assert "(sort) mixes it" in found.kept["c", 0]
    assert found.kept["a", 2] == "it is an input's" and found.kept["c", 1] == "it is an output's"
    assert found.kept["a", 0].endswith("has windows over it")


def test_sums_of_two_values_and_kernels_that_are_not_zero_with_their_parameters_are_kept():
    @written({"a": (3, 8), "b": (3, 8), "c": (36, 10), "d": (3, 7), "e": (7, 10)})
    def attention(p, x):
        x = x.reshape(x.shape[0], 36, 3)
        scores = jnp.einsum("nid,njd->nij", jax.nn.sigmoid(x @ p["a"]), x @ p["b"])
        made = jax.nn.relu(x.mean(1) @ p["d"]) @ jax.nn.softplus(p["e"])
        return scores.mean(1) @ p["c"] + made

    apply, params, image = attention()
    found = channels(hcjax.trace(apply, params, image))
    assert found.groups == ()
    for path, axis in (("a", 1), ("b", 1), ("d", 1), ("e", 0)):
        assert "by no parameter of its own" in found.kept[path, axis]


CONSTANT = np.linspace(0.5, 1.5, 80).reshape(8, 10)


@pytest.mark.parametrize(
    "kernel",
    [
        lambda p: 0.1 * jax.nn.softplus(p["d"]),
        lambda p: 1 / (p["d"] + 3),
        lambda p: CONSTANT / (p["d"] + 3),
        lambda p: CONSTANT * jax.nn.softplus(p["d"]),
        lambda p: jax.nn.softplus(p["d"]) * jnp.broadcast_to(p["row"], (8, 10)),
        lambda p: CONSTANT,
    ],
)
def test_a_kernel_that_stays_when_its_parameters_are_zero_is_kept(kernel):
    apply, params, image = written({"a": (108, 8), "d": (8, 10), "row": (10,)})(
        lambda p, x: jax.nn.sigmoid(x.reshape(-1, 108) @ p["a"]) @ kernel(p)
    )()
    found = channels(hcjax.trace(apply, params, image))
    assert found.groups == ()
    assert "by no parameter of its own" in found.kept["a", 1]


@pytest.mark.parametrize(
    "kernel",
    [
        lambda p: 0.1 * p["d"],
        lambda p: p["d"] / (jnp.square(p["d"]) + 3),
        lambda p: CONSTANT * p["d"],
        lambda p: jax.nn.softplus(p["d"]) * p["column"].reshape(8, 1),
    ],
)
def test_a_kernel_that_is_zero_with_its_parameters_is_cut(kernel):
    apply, params, image = written({"a": (108, 8), "d": (8, 10), "column": (8,)})(
        lambda p, x: jax.nn.sigmoid(x.reshape(-1, 108) @ p["a"]) @ kernel(p)
    )()
    model = hcjax.trace(apply, params, image)
    images = normal(5, *image.shape[1:], seed=1)
    small = without_some(model, channels(model), np.random.default_rng(0))
    assert ("a", 1) in {(cut.path, cut.axis) for cut in small.cut}
    check_cut(model, small, images)


@pytest.mark.parametrize("then", [lambda model: model, hcjax.fold])
def test_what_is_cut_from_a_frozen_kernel_is_recorded(then):
    apply, params, image = written({"a": (108, 8), "d": (8, 10)})(
        lambda p, x: jax.nn.relu(x.reshape(-1, 108) @ p["a"]) @ p["d"]
    )()
    model = then(hcjax.trace(apply, params, image, frozen="d"))
    small = without_some(model, channels(model), np.random.default_rng(0))
    assert [(cut.path[0], cut.axis) for cut in small.cut] == [("a", 1), ("d", 0)]
    check_cut(model, small, normal(5, *image.shape[1:], seed=1))


def test_a_quantized_model_is_refused():
    model, images = traced("nnx", True)
    ranges = hcjax.calibrate(model, images)
    for small in (hcjax.int8(model, ranges), hcjax.fake_quantize(model, ranges)):
        for of in (channels, hcjax.trim, functools.partial(hcjax.shrink, keep=0.5)):
            with pytest.raises(TypeError, match="cut its channels first, then calibrate and int8"):
                of(small)


@pytest.mark.parametrize("first", [True, False])
def test_an_operand_that_is_repeated_may_come_first(first):
    def both(op, short, long):
        return op(short, long) if first else op(long, short)

    shapes = {"a": (1, 1, 3, 8), "b": (8,), "w": (3, 3, 8, 8), "m": (8,), "o": (8 * 36, 5)}

    @written(shapes)
    def build(p, x):
        x = jax.nn.relu(both(jnp.add, p["b"], conv(x, p["a"])))
        x = jax.nn.relu(conv(x, both(jnp.multiply, p["m"], p["w"])))
        return x.reshape(x.shape[0], -1) @ p["o"]

    apply, params, image = build()
    model = hcjax.trace(apply, params, image)
    images = normal(5, *image.shape[1:], seed=1)
    small = hcjax.shrink(model, keep=0.5, scope="uniform")
    assert {("a", 3), ("b", 0), ("w", 2), ("w", 3), ("m", 0), ("o", 0)} == {
        c[:2] for c in small.cut
    }
    check_cut(model, small, images)
    again = hcjax.trace(apply, hcjax.cut(params, small.cut), image)
    assert hcjax.cost(small).macs == hcjax.cost(again).macs
    assert jax.tree.map(jnp.shape, small.params) == jax.tree.map(jnp.shape, again.params)


def test_an_axis_of_one_index_that_is_repeated_stays():
    """A map of one channel, over all of the others'; along no axis is the product a's own."""
    apply, params, image = written({"a": (108, 1), "d": (108, 8), "e": (1, 8), "c": (8, 10)})(
        lambda p, x: (
            jax.nn.sigmoid(x.reshape(-1, 108) @ p["a"])
            * jax.nn.relu(x.reshape(-1, 108) @ (jax.nn.softplus(p["d"]) * p["e"]))
            @ p["c"]
        )
    )()
    model = hcjax.trace(apply, params, image)
    found = channels(model)
    assert "repeats it" in found.kept["a", 1]
    (group,) = found.groups
    assert {(s.path, s.axis) for s in group.slices} == {("d", 1), ("e", 1), ("c", 0)}
    images = normal(5, *image.shape[1:], seed=1)
    check_cut(model, without_some(model, found, np.random.default_rng(0)), images)
