"""Rules for int8 convolutions: the same int32 sums, bit for bit, over the whole range of int8."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from hcjax.accelerate.accelerate import chooser, explanation
from hcjax.accelerate.rules import integers
from hcjax.core.walker import rewrite

LAYOUTS = {
    1: [("NWC", "WIO", "NWC")],
    2: [("NHWC", "HWIO", "NHWC"), ("NCHW", "OIHW", "NCHW")],
    3: [("NHWDC", "HWDIO", "NHWDC")],
}


def operands(shape, layout, seed):
    """Returns int8 image and kernel of {'N': 2, 'h': 5, ...}, extremes among them."""
    rng = np.random.default_rng(seed)
    image = [shape[c.lower() if c in "HWD" else c] for c in layout[0]]
    kernel = [shape[c] for c in layout[1]]
    draw = lambda size: rng.choice([-128, -127, -1, 0, 1, 126, 127], size).astype(np.int8)
    return jnp.asarray(draw(image)), jnp.asarray(draw(kernel))


def convolve(x, k, **how):
    return lax.conv_general_dilated(x, k, preferred_element_type=jnp.int32, **how)


def by(rule, x, k, **how):
    """Returns the convolution with one rule alone, None where it does not apply."""
    jaxpr = jax.make_jaxpr(lambda x, k: convolve(x, k, **how))(x, k)
    run = rewrite(jaxpr, chooser({"conv_general_dilated": (rule,)}))
    return None if run is None else run(x, k)[0]


@st.composite
def convolutions(draw, *, channels):
    rank = draw(st.sampled_from([1, 2, 2, 2, 3]))
    layout = draw(st.sampled_from(LAYOUTS[rank]))
    letters = [c for c in "HWD" if c in layout[0]]
    size = {
        "N": draw(st.integers(1, 3)),
        "C": channels,
        "I": channels,
        "O": draw(st.integers(1, 5)),
    }
    pads = {}
    for c in letters:
        size[c] = draw(st.sampled_from([1, 2, 3, 5]))
        pads[c] = (draw(st.integers(0, 2)), draw(st.integers(0, 2)))
        size[c.lower()] = size[c] + draw(st.integers(0, 4))
    x, k = operands(size, layout, draw(st.integers(0, 99)))
    how = {
        "window_strides": [draw(st.sampled_from([1, 1, 1, 2])) for _ in letters],
        "padding": [pads[c] for c in letters],
        "dimension_numbers": layout,
    }
    return x, k, how


@pytest.mark.parametrize(
    ("rule", "channels"),
    [("pixel_pairs", 3), pytest.param("exact_float", 1, marks=pytest.mark.slow)],
)
def test_sums_are_those_of_the_plain_convolution(rule, channels):
    applied = []

    @settings(max_examples=12, deadline=None)
    @given(convolutions(channels=channels))
    def check(drawn):
        x, k, how = drawn
        found = by(getattr(integers, rule), x, k, **how)
        if found is not None:
            applied.append(1)
            np.testing.assert_array_equal(found, convolve(x, k, **how))

    check()
    assert applied, "the rule never applied"


@pytest.mark.parametrize("shape", [(4, 8, 8, 16), (4, 7, 7, 16), (4, 8, 8, 1)])
def test_each_rule_takes_what_it_says(shape):
    how = {"window_strides": (1, 1), "padding": "SAME", "dimension_numbers": LAYOUTS[2][0]}
    x, k = jnp.zeros(shape, jnp.int8), jnp.zeros((3, 3, shape[-1], 16), jnp.int8)
    paired, exact = (by(r, x, k, **how) is not None for r in (
        integers.pixel_pairs, integers.exact_float
    ))  # fmt: skip
    assert paired == (shape[1] % 2 == 0)
    assert exact == (shape[-1] == 1)


def test_sums_that_float32_cannot_hold_stay_integers():
    x, k = jnp.zeros((1, 40, 40, 1), jnp.int8), jnp.zeros((32, 32, 1, 8), jnp.int8)
    how = {"window_strides": (1, 1), "padding": "VALID", "dimension_numbers": LAYOUTS[2][0]}
    assert by(integers.exact_float, x, k, **how) is None  # 1,024 products of up to 2^14
    assert by(integers.exact_float, x, k[1:], **how) is not None


def test_floats_are_left_alone():
    x, k = jnp.zeros((1, 8, 8, 1)), jnp.zeros((3, 3, 1, 8))

    def plain(x, k):
        return lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=LAYOUTS[2][0])

    table = {"conv_general_dilated": (integers.exact_float, integers.pixel_pairs)}
    assert "not of int8" in explanation(plain, x, k, table=table)[0][2]
