"""Networks in float as ONNX: the numbers of ONNX Runtime are hcjax's, for any size of batch."""

import jax
import jax.numpy as jnp
import numpy as np
import onnx as standard
import pytest

import hcjax
from hcjax.errors import ConfigError
from hcjax.export.onnx import onnx
from hcjax.export.onnx.export import FLOAT
from hcjax.graph.ops import KINDS
from tests.draws import normal
from tests.export.runtime import answers, distance, kinds, session
from tests.graph import test_coverage as coverage
from tests.graph.networks import NETWORKS, folded
from tests.graph.open_networks import OPEN

BAR = 1e-5  # of the output's range
# kinds for which ONNX has no operator, and nobody has written a series
NO_FORM = {
    "bessel_i0e", "bessel_i1e", "clz", "digamma", "erf_inv", "lgamma", "nextafter",
    "population_count",
}  # fmt: skip
SAID = [kind for kind in KINDS if kind not in coverage.MADE and kind not in NO_FORM]
# one of each emitter that is more than a node; the others are slow
QUICK = ("argmax", "atan2", "cond", "cummax", "gather", "integer_pow", "reduce_window_min",
         "reduce_window_sum", "scan", "shift_right_arithmetic", "sort", "tanh")  # fmt: skip


def test_every_kind_has_an_emitter_or_is_known_to_have_none():
    assert set(SAID) == set(FLOAT)


@pytest.mark.parametrize(
    "kind", [k if k in QUICK else pytest.param(k, marks=pytest.mark.slow) for k in SAID]
)
def test_a_kind_of_op(kind):
    apply, params, images = coverage.network(kind)
    model = hcjax.trace(apply, params, images)
    assert distance(model, onnx(model), (images[:3],)) < BAR


@pytest.mark.parametrize(
    "name",
    ["equinox", *(pytest.param(n, marks=pytest.mark.slow) for n in NETWORKS if n != "equinox")],
)
def test_a_network_of_a_library(name):
    model, images = folded(name)
    data = onnx(model)
    for batch in (1, 5):
        assert distance(model, data, (images[:batch],)) < BAR


@pytest.mark.slow
@pytest.mark.parametrize("name", OPEN)
def test_a_network_that_is_no_classifier(name):
    apply, params, inputs = OPEN[name]()[:3]
    model = hcjax.trace(apply, params, *inputs)
    data = onnx(model)
    for batch in (1, 5):
        assert distance(model, data, jax.tree.map(lambda x, n=batch: x[:n], inputs)) < BAR


@pytest.mark.slow
@pytest.mark.parametrize("name", hcjax.models.MODELS)
def test_a_network_of_ours(name):
    options = hcjax.models.options(name)
    shape = (32,) if "tokens" in options else (4000,) if "rate" in options else (32, 32, 3)
    shape = (64, 64, 3) if name == "alexnet" else shape
    network = hcjax.models.create(name, input_shape=shape)
    params, state = network.init(jax.random.key(0))
    x = normal(2, *shape)
    x = jnp.asarray(np.arange(64).reshape(2, 32) % 9, jnp.int32) if "tokens" in options else x
    model = hcjax.trace(hcjax.inference(network.apply, state), params, x)
    assert distance(model, onnx(model), (x,)) < BAR


def lenet(p, x):
    dims = ("NHWC", "HWIO", "NHWC")
    y = jax.lax.conv_general_dilated(x, p["k"], (1, 1), "SAME", dimension_numbers=dims)
    y = jax.lax.reduce_window(jax.nn.relu(y), -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1),
                              "VALID")  # fmt: skip
    return y.reshape(x.shape[0], -1) @ p["w"]


def small():
    """Returns a convolutional network and its images."""
    params = {"k": normal(3, 3, 2, 4, seed=1), "w": normal(36, 5, seed=2)}
    images = normal(4, 6, 6, 2, seed=3)
    return hcjax.trace(lenet, params, images), images


def test_one_transpose_is_left_and_rows_of_dense_layers_are_put_in_order():
    model, images = small()
    data = onnx(model)
    assert kinds(data).count("Transpose") == 1
    assert distance(model, data, (images,)) < BAR


def test_the_file_pins_its_versions_and_names_its_batch():
    made = standard.load_from_string(onnx(small()[0]))
    assert (made.ir_version, made.opset_import[0].version) == (9, 20)
    assert [d.dim_param or d.dim_value for d in made.graph.input[0].type.tensor_type.shape.dim] == [
        "N", 6, 6, 2,
    ]  # fmt: skip


def test_trees_of_inputs_and_outputs_have_their_paths_as_names():
    apply = lambda p, x, more: {"sum": x @ p["w"] + more["b"], "both": (x, more["b"] * 2)}
    x, b = normal(3, 4), normal(3, 2, seed=1)
    model = hcjax.trace(apply, {"w": normal(4, 2)}, x, {"b": b})
    data = onnx(model)
    run = session(data)
    assert [i.name for i in run.get_inputs()] == ["0", "1/b"]
    assert [o.name for o in run.get_outputs()] == ["both/0", "both/1", "sum"]
    assert distance(model, data, (x, {"b": b})) < BAR


@pytest.mark.parametrize(
    "names", [("c_1", "images", "images_out"), ("a", "c_2"), ("unsqueeze_2", "identity_3")]
)
def test_names_of_arrays_may_be_those_of_other_arrays_and_of_nodes(names):
    inputs = {name: normal(3, 4, seed=i) for i, name in enumerate(names)}
    apply = lambda p, x: {n: x[n] * 2 + i for i, n in enumerate(names)} | {"a_out": x[names[0]]}
    model = hcjax.trace(apply, {}, inputs)
    assert distance(model, onnx(model), (inputs,)) < BAR


def test_look_ups_along_an_inner_axis_and_pools_of_spread_numbers():
    lax = jax.lax
    window = lambda x, start, of, padding: lax.reduce_window(
        x, start, of, (1, 2, 3, 1), (1, 1, 2, 1), padding, base_dilation=(1, 2, 2, 1)
    )

    def apply(p, x):
        first = jnp.argmax(x, axis=1, keepdims=True)
        return (
            jnp.take_along_axis(x, first, axis=1),
            jnp.take_along_axis(x, (x > 0).astype(jnp.int32)[:, :, :2], axis=2),
            window(x, -jnp.inf, lax.max, ((0, 0), (1, 0), (0, 1), (0, 0))),
            window(x, jnp.inf, lax.min, ((0, 0), (0, 2), (-1, 0), (0, 0))),
            window(x, 0.0, lax.add, ((0, 0), (1, 0), (0, 1), (0, 0))),
            x[:, :, 0, :, None] + jnp.zeros((4, 3, 2)),  # of size 1 beside a constant
        )

    x = normal(3, 4, 4, 3)
    found = answers(onnx(hcjax.trace(apply, {}, x)), (x,))
    for one, true in zip(found, apply({}, x), strict=True):
        np.testing.assert_allclose(one, true, rtol=1e-5, atol=1e-6)


def test_integers_wrap_and_narrow_dtypes_have_forms():
    def apply(p, x, number):
        y, lax = x.astype(jnp.int16), jax.lax
        windows = ((1, 2), (1, 2), "VALID")
        pool = lambda x: lax.reduce_window(x, 0, lax.add, *windows)
        most = lambda x: lax.reduce_window(x, np.iinfo(x.dtype).min, lax.max, *windows)
        return (
            x.sum(1), pool(x), most(x), jnp.cumsum(y, 1), jnp.argmax(x.astype(jnp.uint32), 1),
            jnp.maximum(y, -y), y.max(1), jnp.sort(x.astype(jnp.uint32), 1),
            jnp.where(x > 0, x > 5, x < -5), jnp.pad(y, ((0, 0), (1, 0))),
            number.astype(jnp.uint8), number.astype(jnp.int32),
        )  # fmt: skip

    x = jnp.asarray(np.random.default_rng(0).integers(-(2**31), 2**31 - 1, (3, 6)), jnp.int32)
    number = jnp.array([[-3.7, 300.0], [1e10, -1e10], [jnp.nan, 5.5]])
    model = hcjax.trace(apply, {}, x, number)
    for found, true in zip(answers(onnx(model), (x, number)), apply({}, x, number), strict=True):
        np.testing.assert_array_equal(found, true)
        assert found.dtype == true.dtype


def test_the_same_network_is_the_same_file():
    assert onnx(small()[0]) == onnx(small()[0])


def test_forms_that_do_not_fit_are_refused():
    model, _ = small()
    with pytest.raises(ConfigError, match=r"form must be one of .*, got 'int4'"):
        onnx(model, form="int4")
    for form in ("exact", "qdq"):
        with pytest.raises(ConfigError, match='in float: form="float"'):
            onnx(model, form=form)


def test_kinds_without_a_form_are_named():
    model = hcjax.trace(lambda p, x: jax.lax.lgamma(x * p), jnp.float32(2), normal(2, 3))
    with pytest.raises(ConfigError, match=r"ONNX cannot be written: .*lgamma"):
        onnx(model)
