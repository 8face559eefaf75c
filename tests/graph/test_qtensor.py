"""QTensors keep their invariants, and stand for what they were made of to half a step."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hcjax.graph.qtensor import QTensor, check, dequantize, limits, quantize, ranged


@st.composite
def arrays(draw):
    shape = draw(st.lists(st.integers(0, 5), min_size=0, max_size=4))
    axis = draw(st.one_of(st.none(), st.integers(-len(shape), len(shape) - 1))) if shape else None
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    scale = 10.0 ** draw(st.integers(-44, 37))
    kind = draw(st.sampled_from(["normal", "sparse", "positive", "constant"]))
    x = rng.standard_normal(shape) * scale
    x = {"normal": x, "sparse": x * (x > scale), "positive": abs(x), "constant": 0 * x + scale}[
        kind
    ]
    return jnp.asarray(x, jnp.float32), axis


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(arrays(), st.integers(2, 8), st.booleans())
def test_invariants_and_half_a_step(case, bits, symmetric):
    x, axis = case
    q = quantize(x, bits=bits, axis=axis, symmetric=symmetric)
    check(q)
    assert q.values.dtype == jnp.int8 and q.shape == x.shape
    wide = np.asarray(x, np.float64)
    scale = np.asarray(q.scale, np.float64)
    if axis is not None:
        scale = scale.reshape([-1 if a == axis % x.ndim else 1 for a in range(x.ndim)])
    error = np.abs(np.asarray(dequantize(q), np.float64) - wide)
    # asymmetric: rounding the zero moves both ends by up to half a step
    assert (error <= scale * (0.5 if symmetric else 1.0) * (1 + 1e-4)).all()
    assert (np.asarray(dequantize(q))[wide == 0] == 0).all()
    # compiled, a division by a constant may become a product: the scale's last bit
    compiled = jax.jit(lambda x: quantize(x, bits=bits, axis=axis, symmetric=symmetric))(x)
    check(compiled)
    np.testing.assert_allclose(compiled.scale, q.scale, rtol=1e-6)


def test_a_given_scale_clips_before_it_casts():
    q = quantize(jnp.array([1e30, -1e30, 3.4, 2.5, 3.5]), scale=jnp.float32(1.0))
    assert q.values.tolist() == [127, -127, 3, 2, 4]  # ties to even
    q = quantize(jnp.array([1e30, -1e30, 0.0]), scale=jnp.float32(1.0), zero=jnp.int32(-8), bits=4)
    assert q.values.tolist() == [7, -8, -8] and dequantize(q).tolist() == [15.0, 0.0, 0.0]


def test_the_widest_range_of_float32_has_a_finite_scale():
    most = np.finfo(np.float32).max
    scale, zero = ranged(-most, most, bits=8, symmetric=False)
    assert np.isfinite(scale) and -1 <= int(zero) <= 0
    assert np.isfinite(ranged(-most, most, bits=2, symmetric=True)[0])


def test_it_is_a_pytree_whose_meta_data_are_static():
    q = quantize(jnp.ones((2, 3)), bits=4, axis=1)
    doubled = jax.jit(lambda q: jax.tree.map(lambda x: x * 2, q))(q)
    assert isinstance(doubled, QTensor) and doubled.bits == 4 and doubled.axis == 1
    assert len(jax.tree.leaves(q)) == 2


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"values": np.full((2, 3), 8, np.int8)}, r"outside \[-7, 7\]"),
        ({"values": np.zeros((2, 3), np.int32)}, "not int8"),
        ({"scale": np.array([1, 0, 1], np.float32)}, "finite and > 0"),
        ({"scale": np.array([1, np.nan, 1], np.float32)}, "finite and > 0"),
        ({"scale": np.ones(2, np.float32)}, r"float32\(3,\)"),
        ({"zero": np.array([9, 0, 0], np.int32)}, "zero is not"),
    ],
)
def test_each_broken_invariant_is_named(changes, message):
    q = jax.tree.map(np.asarray, quantize(jnp.ones((2, 3)), bits=4, axis=1))
    with pytest.raises(ValueError, match=message):
        check(dataclasses.replace(q, **changes))


@pytest.mark.parametrize(
    "how, message",
    [
        ({"bits": 9}, "2 to 8"),
        ({"bits": 1}, "2 to 8"),
        ({"axis": 2}, "axis 2"),
        ({"scale": jnp.ones(3)}, r"shape \(\)"),
        ({"zero": jnp.int32(0)}, "without a scale"),
    ],
)
def test_illegal_arguments_are_named(how, message):
    with pytest.raises(ValueError, match=message):
        quantize(jnp.ones((2, 3)), **how)


def test_limits_hold_one_value_per_code():
    for bits in range(2, 9):
        least, most = limits(bits, symmetric=False)
        assert most - least + 1 == 2**bits and limits(bits, symmetric=True) == (-most, most)
