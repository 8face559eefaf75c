"""Weights as safetensors: the graph's paths, integers with their scales, and back."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load

import hcjax
from hcjax.errors import ArtifactError
from hcjax.export import weights
from hcjax.graph.qtensor import dequantize
from tests.export import shipping


def test_names_are_the_graphs_paths_and_other_libraries_read_them():
    model, small, _ = shipping.dense()
    found = load(hcjax.export.safetensors(model))
    assert sorted(found) == list(model.paths)
    for path, leaf in model.leaves(model.params).items():
        assert np.array_equal(found[path], leaf)
    found = load(hcjax.export.safetensors(small))
    kernel = small.leaves(small.params)["first/kernel"]
    assert found["first/kernel"].dtype == np.int8
    real = found["first/kernel"] * found["first/kernel.scale"]
    assert np.array_equal(real.astype(np.float32), dequantize(kernel))


def test_the_header_says_bits_and_axis(tmp_path):
    _, small, _ = shipping.dense()
    (tmp_path / "w.safetensors").write_bytes(hcjax.export.safetensors(small))
    with safe_open(tmp_path / "w.safetensors", "np") as file:
        said = file.metadata()
    assert json.loads(said["hcjax"])["integers"]["first/kernel"] == {"axis": 1, "bits": 8}


@pytest.mark.parametrize("form", [0, 1], ids=["float", "int8"])
def test_weights_go_back_into_a_network(form):
    *models, images = shipping.dense()
    model = models[form]
    zeros = weights.restored(model, hcjax.export.safetensors(model))
    assert np.array_equal(shipping.outputs(zeros, images), shipping.outputs(model, images))


def test_statistics_and_bfloat16_are_among_them():
    params = {"w": jnp.ones((3, 2), jnp.bfloat16), "mean": jnp.full(3, 2.0)}
    apply = lambda p, x: (x - p["mean"]).astype(jnp.bfloat16) @ p["w"]
    model = hcjax.trace(apply, params, jnp.ones((1, 3)), frozen="mean")
    data = hcjax.export.safetensors(model)
    found = weights.arrays(data)
    assert found["w"].dtype == jnp.bfloat16 and found["mean"].tolist() == [2.0] * 3
    other = hcjax.trace(apply, {"w": params["w"] * 0, "mean": jnp.zeros(3)}, jnp.ones((1, 3)),
                        frozen="mean")  # fmt: skip
    back = weights.restored(other, data)
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert np.array_equal(shipping.outputs(back, x), shipping.outputs(model, x))


def test_two_arrays_of_one_name_are_refused():
    _, small, _ = shipping.dense()
    params = {**small.params, "first/kernel.scale": jnp.ones(1)}
    paths = tuple(sorted([*small.paths, "first/kernel.scale"]))
    with pytest.raises(ArtifactError, match=r"two arrays would be called first/kernel.scale"):
        hcjax.export.safetensors(small.replace(params=params, paths=paths))


def test_a_damaged_file_and_that_of_another_network_are_refused():
    model, small, _ = shipping.dense()
    data = hcjax.export.safetensors(model)
    for bad in (b"", data[:20], b"\xff" * 40, data[:-1]):
        with pytest.raises(ArtifactError):
            weights.arrays(bad)
    with pytest.raises(ArtifactError, match=r"no array first/kernel.scale|first/kernel is float32"):
        weights.restored(small, data)
    with pytest.raises(ArtifactError, match="there is no array"):
        weights.restored(hcjax.trace(lambda p, x: x * p["other"], {"other": jnp.ones(3)},
                                     jnp.ones((1, 3))), data)  # fmt: skip
