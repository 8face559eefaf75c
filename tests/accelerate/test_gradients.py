"""Rules for gradients: the flat kernel gradient in each of its forms, and gradients of gradients.

Operands are small integers, so that sums are exact in any order and results must be equal bit for
bit.
"""

import functools
import itertools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from jax import lax

from hcjax.accelerate.accelerate import accelerate
from hcjax.accelerate.rules import gradients
from hcjax.core import walker
from tests.accelerate.convolutions import (
    LAYOUTS,
    TABLES,
    chosen,
    compiled,
    convolutions,
    integers,
    operands,
    score,
)

NHWC, NCHW, HWNC = LAYOUTS[2]


def form(batch, *sizes, parts=1, layout=NHWC, dtype="float32", taps=3, channels=16, **how):
    """Returns (image, kernel, keywords of lax.conv_general_dilated, parts) of a layer."""
    letters = [letter for letter in "HWD" if letter in layout[0]]
    taps = (taps,) * len(sizes) if isinstance(taps, int) else taps
    lengths = dict(zip("hwd" if len(sizes) > 1 else "w", sizes, strict=False))
    lengths |= dict(zip(letters, taps, strict=True))
    groups = how.get("feature_group_count", 1)
    lengths |= {"N": batch, "C": channels, "I": channels // groups, "O": 4}
    arguments = {"window_strides": (1,) * len(sizes), "padding": "SAME"} | how
    return *operands(layout, lengths, dtype), arguments | {"dimension_numbers": layout}, parts


FLAT = {
    "stride 1": form(2, 9, 9),
    "stride 2": form(2, 9, 9, window_strides=(2, 2)),
    "strides 2 and 1, 3 x 5 taps": form(2, 9, 8, taps=(3, 5), window_strides=(2, 1)),
    "padding on one side": form(2, 9, 9, padding=[(2, 0), (0, 1)]),
    "cut off, not padded": form(2, 9, 9, padding=[(-1, 1), (0, -2)], window_strides=(1, 2)),
    "no padding": form(2, 9, 9, padding="VALID"),
    "dilated rows": form(2, 9, 9, rhs_dilation=(2, 1)),
    "batch 1": form(1, 9, 9),
    "odd batch": form(33, 5, 5),
    "2 parts": form(32, 5, 5, parts=2),
    "2 parts of 24": form(48, 5, 5, parts=2),
    "8 parts, stride 2": form(128, 6, 6, parts=8, window_strides=(2, 2)),
    "NCHW": form(2, 9, 8, layout=NCHW, padding=[(1, 2), (0, 1)]),
    "NCHW in parts": form(32, 5, 4, layout=NCHW, parts=2),
    "HWNC": form(32, 5, 4, layout=HWNC, parts=2, window_strides=(1, 2)),
    "one axis": form(32, 19, layout=LAYOUTS[1][0], taps=5, parts=2, window_strides=(2,)),
    "three axes": form(32, 4, 5, 3, layout=LAYOUTS[3][0], taps=2, parts=2),
    "bfloat16": form(2, 9, 9, dtype="bfloat16"),
    "bfloat16 in parts": form(32, 5, 5, dtype="bfloat16", parts=2),
}
REFUSED = {
    "groups": form(32, 5, 5, feature_group_count=2),
    "dilated columns": form(32, 5, 5, rhs_dilation=(1, 2)),
    "dilated image": form(32, 3, 3, lhs_dilation=(2, 2), padding=[(1, 1)] * 2),
}


def kernel_gradient(name):
    """Returns (gradient(x, dy) -> dk, x, dy, parts) of a form."""
    x, k, how, parts = (FLAT | REFUSED)[name]
    layer = functools.partial(lax.conv_general_dilated, **how)
    dy = jax.eval_shape(layer, x, k)
    dy = integers(dy.shape, dy.dtype.name, 7)
    return lambda x, dy: jax.linear_transpose(lambda k: layer(x, k), k)(dy)[0], x, dy, parts


@pytest.mark.parametrize("name", [*FLAT, *REFUSED])
def test_the_flat_kernel_gradient_equals_the_primitives(name, monkeypatch):
    monkeypatch.setattr(gradients, "_PART_BYTES", 64)
    gradient, x, dy, parts = kernel_gradient(name)
    fast = accelerate(gradient, platform="cpu+onednn")
    if name in FLAT:
        assert chosen(gradient, x, dy) == ["kernel_gradient_flat"]
        names = [e.primitive.name for e, _ in walker.equations(jax.make_jaxpr(fast)(x, dy))]
        assert names.count("conv_general_dilated") == parts
    else:
        assert "kernel_gradient_flat" not in chosen(gradient, x, dy)
    theirs = jax.jit(gradient)(x, dy)
    assert np.count_nonzero(theirs) > theirs.size / 2
    np.testing.assert_array_equal(compiled(fast, "cpu+onednn")(x, dy), theirs)


def test_a_good_part_of_what_is_drawn_has_a_flat_kernel_gradient():
    found = []

    @settings(max_examples=40, derandomize=True, database=None, deadline=None)
    @given(convolutions())
    def draw(case):
        x, k, how = case
        layer = functools.partial(lax.conv_general_dilated, **how)
        found.append("kernel_gradient_flat" in chosen(jax.grad(score(layer), 1), x, k))

    draw()
    assert sum(found) >= len(found) / 5


LAYERS = {
    "stride 1": form(2, 5, 5),
    "stride 2": form(2, 5, 5, window_strides=(2, 2)),
    "depthwise": form(2, 5, 5, taps=2, channels=4, feature_group_count=4),
    "transposed": form(2, 3, 3, taps=(3, 2), lhs_dilation=(2, 1), padding=[(2, 1)] * 2),
    "one channel": form(2, 5, 5, channels=1),
    "one tap": form(2, 3, 3, taps=1),
}


def second_gradients(layer, x, k, wrap=lambda f: f):
    """Returns the gradients of a sum of gradients, rewritten after, between and before."""

    def squared(f):
        return lambda x, k: f(x, k) ** 2

    def gradient(f):
        return jax.grad(score(f), (0, 1))

    return {
        "rewritten last": wrap(gradient(gradient(squared(layer))))(x, k),
        "between": gradient(wrap(gradient(squared(layer))))(x, k),
    }


# each form by one table, each table for two forms; the rest is slow
QUICK = {
    "stride 1": "cpu+native",
    "stride 2": "cpu+onednn",
    "depthwise": "cpu",
    "transposed": "cpu+native",
    "one channel": "cpu",
    "one tap": "cpu+onednn",
}
PAIRS = [
    pytest.param(*pair, marks=[] if QUICK[pair[0]] == pair[1] else pytest.mark.slow)
    for pair in itertools.product(LAYERS, TABLES)
]


@pytest.mark.parametrize("name, table", PAIRS)
def test_gradients_of_gradients_equal_the_primitives(name, table):
    x, k, how, _ = LAYERS[name]
    layer = functools.partial(lax.conv_general_dilated, **how)
    theirs = jax.jit(functools.partial(second_gradients, layer))(x, k)
    assert all(np.count_nonzero(g) > g.size / 2 for g in jax.tree.leaves(theirs))
    wrap = functools.partial(accelerate, platform=table)
    ours = compiled(functools.partial(second_gradients, layer, wrap=wrap), table)(x, k)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
