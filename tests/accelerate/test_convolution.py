"""Convolution rules: values and derivatives equal the plain primitive's, in every form they take.

Operands are small integers, so that sums are exact in any order and results must be equal bit for
bit.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from jax import lax

from hcjax.accelerate.accelerate import accelerate, explanation
from hcjax.accelerate.rules import RULES, gradients
from hcjax.accelerate.rules.canonical import columns, conv
from hcjax.core import walker
from tests.accelerate.convolutions import TABLES, convolutions, everything, integers


def check(case, table, loop):
    """Checks a drawn convolution; kernel gradients of 8 images go part by part."""
    x, k, how = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gradients, "_PART_BYTES", 64)
        patch.setattr(gradients, "_LEAST_PART", 2)
        ours, theirs = (everything(t, how, x, k, loop=loop) for t in (table, None))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@pytest.mark.parametrize("table", TABLES)
@settings(max_examples=4, deadline=None)
@given(case=convolutions())
def test_values_and_derivatives_equal_the_primitives(case, table):
    check(case, table, loop=False)


@pytest.mark.parametrize("table", TABLES)
@settings(max_examples=3, deadline=None)
@given(case=convolutions())
def test_gradients_in_a_loop_equal_the_primitives(case, table):
    check(case, table, loop=True)


def image(*shape):
    return integers(shape, "float32", 0)


NHWC = ("NHWC", "HWIO", "NHWC")


def layer(x, k, stride=1, padding="SAME", **how):
    return lax.conv_general_dilated(x, k, (stride, stride), padding, dimension_numbers=NHWC, **how)


def gradient(x, k, **how):
    return jax.grad(lambda k: (layer(x, k, **how) ** 2).sum())(k)


def input_gradient(x, k, **how):
    return jax.grad(lambda x: (layer(x, k, **how) ** 2).sum())(x)


def scanned(x, k):
    return lax.scan(lambda c, _: (c + gradient(x, k), None), k, None, length=2)[0]


# what each rule is for: the name of the rule, and a function in which it must be chosen
CHOSEN = {
    "depthwise": (lambda x, k: layer(x, k, feature_group_count=8), (2, 9, 9, 8), (3, 3, 1, 8)),
    "depthwise_kernel_gradient": (
        lambda x, k: gradient(x, k, feature_group_count=8), (2, 9, 9, 8), (3, 3, 1, 8),
    ),
    "kernel_gradient_columns": (gradient, (2, 9, 9, 1), (5, 5, 1, 4)),
    "kernel_gradient_pointwise": (gradient, (2, 9, 9, 16), (1, 1, 16, 4)),
    "few_pixels": (layer, (2, 2, 2, 16), (3, 3, 16, 4)),
    "kernel_gradient_flat": (gradient, (8, 9, 9, 16), (3, 3, 16, 4)),
    "input_gradient_phases": (
        lambda x, k: input_gradient(x, k, stride=2), (2, 9, 9, 16), (3, 3, 16, 4),
    ),
    "canonical_in_loop": (scanned, (2, 9, 9, 16), (3, 3, 16, 4)),
    "barrier": (layer, (2, 9, 9, 16), (3, 3, 16, 4)),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(set(CHOSEN) - {"canonical_in_loop"}))
def test_each_rule_is_chosen_for_the_form_it_is_made_for(name):
    function, x, k = CHOSEN[name]
    table = RULES["cpu" if name == "depthwise" else "cpu+onednn"]  # oneDNN has its own
    rows = explanation(function, image(*x), image(*k), table=table)
    assert [name for _, _, verdict in rows if verdict.startswith(f"{name}: ")]


@pytest.mark.parametrize("step", [2, 3])
@pytest.mark.parametrize("padding", [(0, 0), (1, 1), (2, 1)])
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_every_phase_of_a_dilated_image_is_right(step, padding, size):
    def plain(x, k):
        return layer(x, k, padding=[padding] * 2, lhs_dilation=(step, step))

    x, k = image(2, 5, 4, 3), integers((size, size, 3, 2), "float32", 1)
    ours = jax.jit(accelerate(plain, platform="cpu"))(x, k)
    np.testing.assert_array_equal(ours, jax.jit(plain)(x, k))


def test_the_kernel_gradient_of_a_loop_is_canonical():
    function, x, k = CHOSEN["canonical_in_loop"]
    jaxpr = jax.make_jaxpr(accelerate(function, platform="cpu"))(image(*x), image(*k))
    found = [conv(e) for e, _ in walker.equations(jaxpr) if "conv" in e.primitive.name]
    assert len(found) >= 2 and all(c.canonical for c in found)


def test_columns_are_the_pixels_under_each_tap():
    x = jnp.arange(12.0).reshape(1, 3, 4, 1)
    jaxpr = jax.make_jaxpr(lambda x, k: layer(x, k, padding="VALID"))(x, jnp.ones((2, 2, 1, 1)))
    found = columns(x, conv(jaxpr.jaxpr.eqns[0]))
    assert found.shape == (1, 2, 3, 4)
    assert found[0, 0, 0].tolist() == [0, 1, 4, 5]
    assert found[0, 1, 2].tolist() == [6, 7, 10, 11]


def test_a_symbolic_batch_is_left_alone():
    b = jax.export.symbolic_shape("b")[0]
    x = jax.ShapeDtypeStruct((b, 9, 9, 1), jnp.float32)
    k = jax.ShapeDtypeStruct((3, 3, 1, 4), jnp.float32)
    jaxpr = jax.make_jaxpr(layer)(x, k)
    for rule in RULES["cpu"]["conv_general_dilated"][:-2]:
        assert rule(jaxpr.jaxpr.eqns[0], walker.Place(False, {}, {})) == "a symbolic size"
