"""`QuantSpec`: the same network by a spec and by keywords; what is no spec is refused."""

import jax.numpy as jnp
import numpy as np
import pytest

import hcjax
from hcjax import QuantSpec
from hcjax.errors import ConfigError
from hcjax.quantize import profiling
from hcjax.quantize.spec import checked

IMAGES = jnp.array(np.random.default_rng(0).normal(size=(6, 4)), jnp.float32)
FIELDS = {
    "bits": {"fc1": 3, ".*": 4},
    "activation_bits": 6,
    "input_bits": 5,
    "granularity": "tensor",
}


@pytest.fixture(scope="module")
def network():
    """Returns (model of two layers, its ranges)."""
    rng = np.random.default_rng(1)
    params = {
        name: {"kernel": jnp.array(rng.normal(size=shape), jnp.float32)}
        for name, shape in (("fc1", (4, 5)), ("fc2", (5, 3)))
    }

    def apply(p, x):
        return jnp.maximum(x @ p["fc1"]["kernel"], 0) @ p["fc2"]["kernel"]

    model = hcjax.trace(apply, params, IMAGES)
    return model, hcjax.calibrate(model, IMAGES)


def test_a_spec_and_keywords_give_the_same_integers(network):
    spec, fields = QuantSpec(**FIELDS, floats="fc2"), FIELDS | {"floats": "fc2"}
    blobs = [
        hcjax.pack(hcjax.int8(*network, spec)),
        hcjax.pack(hcjax.int8(*network, **fields)),
        hcjax.pack(hcjax.int8(hcjax.fake_quantize(*network, spec))),
        hcjax.pack(hcjax.int8(hcjax.fake_quantize(*network, **fields))),
        hcjax.pack(hcjax.int8(*network, QuantSpec(bits=8, floats="fc2"), **FIELDS)),
    ]
    assert len(set(blobs)) == 1
    assert blobs[0] != hcjax.pack(hcjax.int8(*network, QuantSpec(floats="fc2")))


def test_error_analysis_takes_a_spec_or_keywords(network):
    labels = np.arange(6) % 3
    by_spec, by_keywords, default = (
        str(hcjax.error_analysis(*network, IMAGES, labels, *given, **fields))
        for given, fields in (([QuantSpec(**FIELDS)], {}), ([], FIELDS), ([], {}))
    )
    assert by_spec == by_keywords != default


def test_profile_takes_a_spec_or_keywords(network, monkeypatch):
    specs = []
    real = profiling.fake.build

    def build(model, ranges, spec):
        specs.append(spec)
        return real(model, ranges, spec)

    monkeypatch.setattr(profiling.fake, "build", build)
    monkeypatch.setattr(profiling, "_seconds", lambda ways, seconds: [1.0, 1.0])
    for given, fields in (([QuantSpec(**FIELDS)], {}), ([], FIELDS)):
        hcjax.quantize.profile(*network, IMAGES, *given, **fields)
    assert specs == [QuantSpec(**FIELDS)] * 2


def test_every_layer_is_measured_in_integers(network):
    labels = np.arange(6) % 3
    with pytest.raises(ConfigError, match="every layer is measured in integers, got 'fc2'"):
        hcjax.error_analysis(*network, IMAGES, labels, floats="fc2")
    with pytest.raises(ConfigError, match="every layer is measured in integers, got 'fc2'"):
        hcjax.quantize.profile(*network, IMAGES, QuantSpec(floats="fc2"))


def test_an_unknown_field_and_what_is_no_spec_are_refused(network):
    with pytest.raises(TypeError, match="unknown field of QuantSpec 'bit'; did you mean 'bits'"):
        hcjax.int8(*network, bit=4)
    with pytest.raises(ConfigError, match="spec must be a QuantSpec, got int"):
        hcjax.fake_quantize(*network, 4)


def test_numpy_integers_become_pythons():
    spec = checked(QuantSpec(np.int64(4), input_bits={"fc1": np.int8(3)}))
    assert spec == QuantSpec(4, 4, {"fc1": 3})
    assert type(spec.bits) is int and type(spec.input_bits["fc1"]) is int
