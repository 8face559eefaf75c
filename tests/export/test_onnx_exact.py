"""Networks in integers as ONNX: ONNX Runtime gives the bits of `int8.apply`."""

import jax
import numpy as np
import pytest

import hcjax
from hcjax.errors import ConfigError
from hcjax.export.onnx import onnx
from hcjax.graph.ops import KINDS
from tests.export.runtime import answers, distance, kinds
from tests.export.test_onnx import NO_FORM, small
from tests.graph import test_coverage as coverage
from tests.graph.networks import NETWORKS, folded
from tests.graph.open_networks import OPEN

# one of each emitter of int8
QUICK = ("conv_general_dilated", "cummax", "reduce_window_sum", "tanh")


def integers(model, *inputs, **spec):
    """Returns a network in integers, calibrated by the inputs."""
    return hcjax.int8(model, hcjax.calibrate(model, *inputs), **spec)


def check(model, *inputs):
    """Bits where all is in integers, and where a float op is left its own rounding."""
    data = onnx(model, form="exact")
    assert "ConvInteger" in kinds(data) or "MatMulInteger" in kinds(data) or model.floats
    if model.floats:
        assert distance(model, data, inputs) < 0.05  # a float's rounding may move a step
        return
    expected = jax.tree.leaves(jax.jit(model.apply)(model.params, *inputs))
    for ours, theirs in zip(answers(data, inputs), expected, strict=True):
        np.testing.assert_array_equal(ours, np.asarray(theirs))


@pytest.mark.parametrize(
    "kind",
    [
        k if k in QUICK else pytest.param(k, marks=pytest.mark.slow)
        for k in KINDS
        if k not in coverage.MADE
    ],
)
def test_a_kind_of_op(kind):
    apply, params, images = coverage.network(kind)
    model = integers(hcjax.fold(hcjax.trace(apply, params, images)), images)
    if kind in NO_FORM and model.floats:
        with pytest.raises(ConfigError, match=f"it has no form of {kind}"):
            onnx(model, form="exact")
        return
    check(model, images)


@pytest.mark.parametrize("spec", [{"zero_points": False}, {"activation_bits": 4}])
def test_activations_of_other_bits_and_with_or_without_zero_points(spec):
    model, images = small()
    spec = dict(spec)
    check(integers(model, images, **spec), images)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_of_a_library(name):
    model, images = folded(name)
    check(integers(model, images), images)


@pytest.mark.slow
@pytest.mark.parametrize("name", OPEN)
def test_a_network_that_is_no_classifier(name):
    apply, params, inputs = OPEN[name]()[:3]
    check(integers(hcjax.fold(hcjax.trace(apply, params, *inputs)), *inputs), *inputs)


def test_long_products_are_split(monkeypatch):
    from hcjax.export.onnx import exact

    model, images = small()
    model = integers(hcjax.fold(model), images)
    plain = kinds(onnx(model, form="exact")).count("Floor")
    monkeypatch.setattr(exact, "_EXACT", 1)
    assert kinds(onnx(model, form="exact")).count("Floor") > plain
    check(model, images)


def test_float_is_refused_for_a_network_in_integers():
    model, images = small()
    with pytest.raises(ConfigError, match="in integers"):
        onnx(integers(hcjax.fold(model), images))
