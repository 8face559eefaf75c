"""profile: each layer both ways, and layers that stay in float because they were asked to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hcjax
from hcjax.accelerate import compiler
from hcjax.errors import ConfigError
from hcjax.graph.qtensor import QTensor
from hcjax.quantize import profiling
from tests.draws import normal
from tests.graph.networks import NETWORKS


def folded(name):
    apply, params, image = NETWORKS[name]()
    images = normal(4, *image.shape[1:], seed=1)
    return hcjax.fold(hcjax.trace(apply, params, image)), images


def logits(model, images):
    return np.asarray(jax.jit(model.apply)(model.params, images))


@pytest.fixture
def one_way(monkeypatch):
    """Compiles in one way, not in all that `tune` tries."""
    monkeypatch.setattr(compiler, "tune", lambda fn, *args: jax.jit(fn))


RESNET, EQUINOX = (pytest.param(n, marks=pytest.mark.slow) for n in ("resnet_tiny", "equinox"))


@pytest.mark.parametrize(
    "name",
    [
        "lenet5",
        pytest.param("resnet_tiny", marks=pytest.mark.slow),
        pytest.param("dense", marks=pytest.mark.slow),
    ],
)
def test_every_layer_is_timed_with_what_follows_it(name, one_way):
    model, images = folded(name)
    found = profiling.profile(model, hcjax.calibrate(model, images), images, seconds=1e-9)
    expected = [row.macs for row in hcjax.cost(model).rows if row.macs]
    assert sorted(row.macs for row in found.rows) == sorted(expected) and found.floats == ()
    assert all(row.float_seconds > 0 and row.int8_seconds > 0 for row in found.rows)
    assert found.batch == 4


@pytest.mark.slow
@pytest.mark.parametrize("input_bits", [8, {".*conv2": 4}])
def test_what_is_timed_computes_what_the_networks_do(input_bits, monkeypatch, one_way):
    """The last layer's two ways give the logits of the two networks."""
    outputs = []
    monkeypatch.setattr(
        profiling, "_seconds", lambda fs, _: [outputs.append(fn(*ins)) or 1.0 for fn, ins in fs]
    )
    model, images = folded("resnet_tiny")
    ranges = hcjax.calibrate(model, images)
    profiling.profile(model, ranges, images, input_bits=input_bits)
    np.testing.assert_allclose(outputs[-2], logits(model, images), rtol=1e-4, atol=1e-5)
    small = hcjax.int8(model, ranges, input_bits=input_bits)
    np.testing.assert_array_equal(outputs[-1], logits(small, images))


def test_the_table_names_what_is_slower_as_int8_takes_it():
    rows = (
        profiling.LayerSeconds("a.b", 10, 1e-6, 2e-6),
        profiling.LayerSeconds("axb", 20, 3e-6, 2e-6),
        profiling.LayerSeconds("c", 30, 1e-6, 4e-6),
    )
    found = profiling.Profile(rows, ("tanh (4,) at x.py:1",), 8, "cpu")
    assert found.slower == r"a\.b|c"
    lines = str(found).splitlines()
    assert [line.split()[-1] for line in lines[1:4]] == ["float", "int8", "float"]
    assert lines[2].split() == ["axb", "20", "3", "2", "1.50", "int8"]
    assert lines[4:] == ["in float: tanh (4,) at x.py:1", "batch 8, cpu"]


@pytest.mark.parametrize("name", [RESNET, "lenet5", "depthwise"])
def test_seven_bits_are_proved_not_to_saturate_pairs(name):
    if name != "depthwise":
        model, images = folded(name)
    else:  # one input channel for each output channel
        kernel = np.linspace(-1, 1, 36, dtype=np.float32).reshape(3, 3, 1, 4)
        images = normal(2, 6, 6, 4)
        apply = lambda p, x: jax.lax.conv_general_dilated(
            x, p["w"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=4,
        ).mean((1, 2))  # fmt: skip
        model = hcjax.trace(apply, {"w": kernel}, images)
    ranges = hcjax.calibrate(model, images)
    for bits in (7, 8):
        small = hcjax.int8(model, ranges, bits=bits)
        found = profiling.pair_sums(small)
        kernels = {p: q for p, q in small.params.items() if isinstance(q, QTensor)}
        assert set(found) == set(kernels)
        for path, q in kernels.items():  # every pair of weights of every channel, by hand
            by_channel = np.moveaxis(np.asarray(q.values, np.int64), q.axis, 0)
            worst = 0
            for column in by_channel.reshape(len(by_channel), -1):
                for side in (np.maximum(column, 0), np.maximum(-column, 0)):
                    sums = side[:, None] + side[None, :]
                    np.fill_diagonal(sums, 0)
                    worst = max(worst, sums.max())
            assert found[path] == 255 * worst
        assert (max(found.values()) <= 32_767) == (bits == 7)
    with pytest.raises(TypeError, match="int8"):
        profiling.pair_sums(model)


@pytest.mark.parametrize("name", [RESNET, EQUINOX, "lenet5"])
def test_layers_stay_in_float_on_request_and_are_listed(name):
    model, images = folded(name)
    ranges = hcjax.calibrate(model, images)
    names = [row.name for row in hcjax.cost(model).rows if row.macs]
    chosen = names[1]
    fake = hcjax.fake_quantize(model, ranges, floats=f"{chosen}|no such layer")
    small = hcjax.int8(model, ranges, floats=chosen)
    assert len(small.floats) == 1 and small.floats == fake.floats
    got = logits(small, images)
    np.testing.assert_array_equal(got, logits(fake, images))
    kinds = [op.kind for op in small.graph.ops if op.macs]
    wholes = [op.kind for op in hcjax.int8(model, ranges).graph.ops if op.macs]
    assert kinds == wholes and [op.dtype for op in small.graph.ops if op.macs].count("int32") == (
        len(names) - 1
    )
    expected = logits(model, images)
    assert np.abs(got - expected).max() < 0.1 * np.ptp(expected)
    for path, leaf in small.params.items():  # its weights are integers all the same
        floating = jnp.issubdtype(jax.tree.leaves(leaf)[0].dtype, jnp.floating)
        assert not floating or leaf.ndim < 2, path
    kernels = [p for p, leaf in small.params.items() if isinstance(leaf, QTensor)]
    assert len(kernels) == len(names)
    back = hcjax.unpack(hcjax.pack(small))
    np.testing.assert_array_equal(logits(back, images), got)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"bits": {"conv9": 4}},
            r"bits: 'conv9' matches no layer.* layers are: conv1, conv2, dense1",
        ),
        (
            {"activation_bits": {"image": 4}},
            r"activation_bits: 'image' matches no .*'image\.\*' does.*images",
        ),
        (
            {"floats": "dense"},
            r"floats: 'dense' matches no layer .*'dense\.\*' does.* dense1, dense2",
        ),
    ],
)
def test_a_pattern_that_matches_no_layer_is_named(options, message):
    model, images = folded("lenet5")
    ranges = hcjax.calibrate(model, images)
    with pytest.raises(ConfigError, match=message):
        hcjax.fake_quantize(model, ranges, **options)
    hcjax.fake_quantize(model, ranges, bits={"conv1": 4}, activation_bits={"images": 4})
