"""The rules for sums equal the plain sum, and its derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

import hcjax
from hcjax.accelerate.accelerate import explanation
from hcjax.accelerate.rules import RULES
from hcjax.core import walker
from hcjax.models import norm


def verdicts(fn, *args):
    table = {"reduce_sum": RULES["cpu"]["reduce_sum"]}
    return [text for _, _, text in explanation(fn, *args, table=table)]


@st.composite
def sums(draw):
    """Draws (function of an array and two factors, which it multiplies and sums, operands)."""
    rank = draw(st.integers(1, 4))
    shape = draw(st.lists(st.integers(1, 4), min_size=rank, max_size=rank))
    axes = draw(st.lists(st.integers(0, rank - 1), min_size=1, max_size=rank, unique=True))
    signs = draw(st.lists(st.booleans(), min_size=3, max_size=3))
    kept = [i for i in range(rank) if i not in axes]
    whole = draw(st.booleans())  # factors of the array's rank, or with its other axes only
    first = draw(st.booleans())
    small = (
        [1 if i in axes else d for i, d in enumerate(shape)] if whole else [shape[i] for i in kept]
    )

    def spread(factor):
        dims = range(rank) if whole else kept
        return lax.broadcast_in_dim(factor, shape, tuple(dims))

    def fn(x, a, b):
        for sign, factor in zip(signs, (a, b), strict=False):
            x = -x if sign else x
            x = spread(factor) * x if first else x * spread(factor)
        return (-x if signs[2] else x).sum(tuple(axes))

    rng = np.random.default_rng(draw(st.integers(0, 99)))
    draws = [jnp.asarray(rng.integers(-3, 4, s), "float32") for s in (shape, small, small)]
    return fn, draws


@pytest.mark.slow
@settings(max_examples=5, deadline=None)
@given(sums())
def test_values_and_derivatives_equal_the_plain_sum(case):
    fn, operands = case
    fast = hcjax.accelerate(fn, platform="cpu")
    [text] = verdicts(fn, *operands)
    # an axis of one element leaves nothing to tell a factor from the array
    if max(operands[0].shape) > 1 and operands[0].size > operands[1].size:
        assert text.startswith("factored: ")
    np.testing.assert_array_equal(fast(*operands), fn(*operands))
    for order in (1, 2):
        plain, ours = (
            jax.jacrev(jax.jacfwd(g, 0), 1) if order == 2 else jax.jacrev(g, (0, 1, 2))
            for g in (fn, fast)
        )
        jax.tree.map(np.testing.assert_array_equal, ours(*operands), plain(*operands))


@pytest.mark.parametrize(
    "fn",
    [
        lambda x, f: (x * f[:, None]).sum(0),  # varies along the axis
        lambda x, f: (x * x).sum(0),
        lambda x, f: (x * 2.0).sum(0),  # a scalar: nothing is saved
        lambda x, f: (x + f).sum(0),
        lambda x, f: (jnp.sin(x) * x).sum(),
    ],
)
def test_other_sums_are_left_and_it_says_why(fn):
    assert verdicts(fn, jnp.ones((3, 3)), jnp.ones(3)) == [
        "factored does not apply: no factor is constant along its axes"
    ]


def test_the_gradient_of_a_normalisation_sums_each_array_once():
    """Two statistics forward; Σ g and Σ g (x - mean) backward, the mean's share being -f Σ g."""

    def loss(params, x):
        y, _ = norm.batch_norm(
            params, {"mean": jnp.zeros(3), "variance": jnp.ones(3)}, x, train=True
        )
        return (y**3).sum()

    params, x = {"scale": jnp.ones(3), "bias": jnp.zeros(3)}, jnp.ones((4, 2, 2, 3))
    plain = jax.grad(loss, (0, 1))

    def summed(fn):
        eqns = walker.equations(jax.make_jaxpr(fn)(params, x))
        large = [
            e for e, _ in eqns if e.primitive.name == "reduce_sum" and e.invars[0].aval.ndim == 4
        ]
        return {
            e.invars[0] for e in large if e.invars[0].aval.size == x.size and e.outvars[0].aval.ndim
        }

    assert len(summed(plain)) == 5
    assert len(summed(hcjax.accelerate(plain, platform="cpu"))) == 4


def test_sums_over_images_are_barred_where_onednn_computes_the_layer_before():
    def mean(x):
        return jax.nn.relu(x).mean(tuple(range(1, x.ndim - 1)))

    x = jnp.arange(-8.0, 16.0).reshape(2, 2, 2, 3)
    fast = hcjax.accelerate(mean, platform="cpu+onednn")
    np.testing.assert_array_equal(fast(x), mean(x))
    assert "optimization_barrier" in str(jax.make_jaxpr(fast)(x))
    assert "optimization_barrier" not in str(jax.make_jaxpr(fast)(x[0, 0]))
