"""Networks in integers as pairs that ONNX Runtime fuses: its integer kernels, and near answers."""

from collections import Counter

import jax
import numpy as np
import onnx as standard
import pytest

import hcjax
from hcjax.export.onnx import onnx
from tests.draws import normal
from tests.export.runtime import answers, distance, kinds, session
from tests.export.test_onnx import small
from tests.export.test_onnx_exact import integers
from tests.graph.networks import NETWORKS, folded
from tests.graph.open_networks import OPEN


def fused(data, folder):
    """Returns kind -> count of the nodes that ONNX Runtime runs."""
    session(data, save=folder / "optimised.onnx")
    return Counter(n.op_type for n in standard.load(folder / "optimised.onnx").graph.node)


def test_layers_are_integer_kernels(tmp_path):
    model, images = small()
    data = onnx(integers(model, images), form="qdq")
    found = fused(data, tmp_path)
    assert (found["QLinearConv"], found["QGemm"], found["DequantizeLinear"]) == (1, 1, 0)
    assert "Clip" not in kinds(data) and "Pad" not in kinds(data)
    assert distance(integers(model, images), data, (images,)) < 0.02


def test_either_level_of_optimisation_is_near():
    model, images = small()
    model = integers(model, images)
    for optimised in (True, False):
        assert distance(model, onnx(model, form="qdq"), (images,), optimised=optimised) < 0.02


def residual(p, x):
    dims = ("NHWC", "HWIO", "NHWC")
    conv = lambda x, k: jax.lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=dims)
    y = jax.nn.relu(conv(x, p["a"]))
    y = jax.nn.relu(conv(y, p["b"]) + y)
    y = jax.nn.relu(conv(y, p["b"]) + conv(y, p["c"]))
    return y.mean((1, 2)) @ p["w"]


def test_residual_sums_are_integer_kernels(tmp_path):
    shapes = {"a": (3, 3, 2, 4), "b": (3, 3, 4, 4), "c": (1, 1, 4, 4), "w": (4, 3)}
    params = {k: normal(*s, seed=i) for i, (k, s) in enumerate(shapes.items())}
    images = normal(16, 6, 6, 2, seed=9)
    model = integers(hcjax.fold(hcjax.trace(residual, params, images)), images)
    data = onnx(model, form="qdq")
    found = fused(data, tmp_path)
    assert (found["QLinearConv"], found["QLinearAdd"], found["QGemm"]) == (4, 2, 1)
    assert distance(model, data, (images,)) < 0.05


def test_sums_of_the_greatest_numbers_are_whole():
    """Without VNNI, products of uint8 by int8 saturate in 16 bits: kernels are uint8."""
    params = {"k": np.ones((3, 3, 8, 4), "f"), "w": np.ones((4, 3), "f")}
    images = normal(8, 6, 6, 8)
    images = images.at[0].set(images.max())

    def apply(p, x):
        dims = ("NHWC", "HWIO", "NHWC")
        y = jax.lax.conv_general_dilated(x, p["k"], (1, 1), "VALID", dimension_numbers=dims)
        return y.max((1, 2)) @ p["w"]

    model = integers(hcjax.trace(apply, params, images), images)
    data = onnx(model, form="qdq")
    assert distance(model, data, (images,)) < 0.02
    kernels = [i for i in standard.load_from_string(data).graph.initializer if len(i.dims) > 1]
    assert [k.data_type for k in kernels] == [standard.TensorProto.UINT8] * 2


@pytest.mark.parametrize("spec", [{"zero_points": False}, {"activation_bits": 4}])
def test_activations_that_uint8_does_not_end_with_are_clipped(spec):
    model, images = small()
    model = integers(model, images, **spec)
    assert distance(model, onnx(model, form="qdq"), (images,)) < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("name", [*NETWORKS, *OPEN])
def test_a_network_is_near(name):
    if name in NETWORKS:
        model, images = folded(name)
        inputs = (images,)
    else:
        apply, params, inputs = OPEN[name]()[:3]
        model = hcjax.fold(hcjax.trace(apply, params, *inputs))
    model = integers(model, *inputs)
    data = onnx(model, form="qdq")
    assert distance(model, data, inputs) < 0.2
    one = jax.tree.map(lambda x: x[:1], inputs)
    shapes = [np.shape(x)[:1] for x in answers(data, one)]
    assert set(shapes) <= {(1,), ()}
