"""StableHLO: the network's bits, for any number of examples, in a process that has only jax."""

import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hcjax
from hcjax.core import optional
from hcjax.errors import ConfigError, DependencyError
from tests.draws import normal
from tests.export import shipping
from tests.graph import networks
from tests.tiny import ROOT

PROGRAM = """
import sys
import jax, numpy as np
call = jax.jit(jax.export.deserialize(bytearray(open(sys.argv[1], "rb").read())).call)
np.save(sys.argv[3], call(np.load(sys.argv[2])))
assert "hcjax" not in sys.modules
"""


# the compiler of jax 0.10 rounds otherwise where it sees the weights of a large dense layer
EXACT = jax.__version_info__ >= (0, 12)


def opened(data):
    return jax.export.deserialize(bytearray(data))


def run(data, *inputs):
    return jax.tree.map(np.asarray, jax.jit(opened(data).call)(*inputs))


@pytest.mark.parametrize("form", [0, 1], ids=["float", "int8"])
def test_any_number_of_examples_gives_the_networks_bits(form):
    *models, images = shipping.dense()
    data = hcjax.export.stablehlo(models[form])
    for count in (1, 16):
        expected = shipping.outputs(models[form], images[:count])
        assert np.array_equal(run(data, images[:count]), expected)


def test_the_compiler_does_not_round_otherwise_for_seeing_the_weights():
    model, _, images = shipping.convolutional()
    found = run(hcjax.export.stablehlo(model), images)
    assert np.array_equal(found, shipping.outputs(model, images))


def test_one_number_of_examples_is_rewritten_for_the_cpu_alone():
    model, small, images = shipping.convolutional()
    data = hcjax.export.stablehlo(small, batch=16)
    assert np.array_equal(run(data, images), shipping.outputs(small, images))
    exported = opened(data)
    assert exported.platforms == ("cpu", "cuda", "tpu")
    assert exported.in_avals[0].shape == (16, 28, 28, 1)
    text = exported.mlir_module()
    assert "stablehlo.case" in text and "hcjax_" not in text  # no native call
    one = run(hcjax.export.stablehlo(model, batch=16, platforms=("cpu",)), images)
    expected = shipping.outputs(model, images)
    assert np.abs(one - expected).max() <= 1e-5 * np.ptp(expected)


def test_the_same_network_gives_the_same_bytes_without_paths():
    small = shipping.dense()[1]
    here, there = hcjax.export.stablehlo(small, batch=2), hcjax.export.stablehlo(small, batch=2)
    assert here == there  # from another column of this file
    text = opened(here).mlir_module()
    assert ".py" not in text and str(ROOT) not in text
    assert jax.config.jax_traceback_in_locations_limit != 0


def test_it_runs_in_a_process_that_imports_only_jax(tmp_path):
    _, small, images = shipping.dense()
    (tmp_path / "network").write_bytes(hcjax.export.stablehlo(small))
    np.save(tmp_path / "in.npy", images)
    command = [sys.executable, "-c", PROGRAM, "network", "in.npy", "out.npy"]
    subprocess.run(command, cwd=tmp_path, check=True, env={"JAX_PLATFORMS": "cpu", "PATH": ""})
    found = np.load(tmp_path / "out.npy")
    assert np.array_equal(found, shipping.outputs(small, images))


def test_trees_and_numbers_for_the_whole_batch():
    def apply(p, x, scale):
        return {"sum": x["a"] + scale * x["b"], "two": (x["b"] @ p["w"], x["a"])}

    inputs = {"b": np.ones((2, 3), np.float32), "a": np.full((2, 3), 2, np.float32)}
    params = {"w": np.eye(3, dtype=np.float32)}
    model = hcjax.trace(apply, params, inputs, 2.0)
    found = run(hcjax.export.stablehlo(model), inputs, jnp.float32(0.5))
    expected = shipping.outputs(model, inputs, 0.5)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    assert all(map(np.array_equal, jax.tree.leaves(found), jax.tree.leaves(expected)))


@pytest.mark.parametrize("options", [{"batch": 0}, {"batch": 1.5}, {"platforms": "cpu"},
                                     {"platforms": ()}, {"platforms": ("gpu",)}])  # fmt: skip
def test_options_out_of_range_are_named(options):
    (name,) = options
    with pytest.raises(ConfigError, match=f"{name} must be"):
        hcjax.export.stablehlo(shipping.dense()[0], **options)


def test_what_jax_cannot_export_is_one_message():
    def apply(p, x):
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return jax.pure_callback(np.sin, shape, x, vmap_method="broadcast_all")

    model = hcjax.trace(apply, {}, jnp.ones((1, 3)))
    with pytest.raises(ConfigError, match="StableHLO cannot be written"):
        hcjax.export.stablehlo(model)


def test_without_flatbuffers_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(optional.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DependencyError, match=r"flatbuffers.*hcjax\[export\]"):
        hcjax.export.stablehlo(shipping.dense()[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", networks.NETWORKS)
def test_every_network_keeps_its_bits(name):
    model, images = networks.folded(name)
    small = hcjax.int8(model, hcjax.calibrate(model, images))
    for each in (model, small):
        expected = shipping.outputs(each, images)
        found = run(hcjax.export.stablehlo(each), images)
        if EXACT or (each is small and not small.floats):
            assert np.array_equal(found, expected)
        assert np.abs(found - expected).max() <= 1e-5 * np.ptp(expected)
        static = run(hcjax.export.stablehlo(each, batch=len(images)), images)
        if each is small and not small.floats:
            assert np.array_equal(static, expected)
        else:
            assert np.abs(static - expected).max() <= 1e-5 * np.ptp(expected)


@pytest.mark.slow
def test_rewrites_of_one_size_of_batch_change_no_bit():
    network = hcjax.models.create("resnet20", input_shape=(28, 28, 1))
    params, state = jax.jit(network.init)(jax.random.key(0))
    images = np.asarray(normal(16, 28, 28, 1))
    model = hcjax.fold(hcjax.trace(hcjax.inference(network.apply, state), params, images[:1]))
    small = hcjax.int8(model, hcjax.calibrate(model, images))
    rewritten = hcjax.accelerate(partial(small.apply, small.params), platform="cpu+fused")
    any_size, static = (
        jax.jit(opened(hcjax.export.stablehlo(small, batch=batch)).call) for batch in (None, 16)
    )
    calls = [partial(call, images) for call in (static, jax.jit(rewritten), any_size)]
    expected = np.asarray(calls[1]())
    assert all(np.array_equal(call(), expected) for call in calls)
