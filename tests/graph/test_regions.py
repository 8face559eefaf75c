"""`in_float`: parts of a network that stay one op, in float."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hcjax
from tests.draws import normal


def computed(params, x):
    """Has a matrix that is computed inside."""

    def inside(x):
        return jnp.log(1e-6 + (x @ jnp.cos(jnp.arange(600.0).reshape(6, 100))) ** 2)

    return hcjax.in_float(inside)(jax.nn.relu(x @ params["z"]) @ params["a"]) @ params["b"]


def weighted(params, x):
    """Has parameters inside: one is an argument, one is closed over."""

    def inside(x, kernel):
        return jnp.log(1e-6 + (x @ kernel) ** 2 + jnp.sum(params["c"] ** 2))

    x = jax.nn.relu(x @ params["z"]) @ params["a"]
    return hcjax.in_float(inside)(x, params["k"]) @ params["b"]


SHAPES = {"z": (4, 8), "a": (8, 6), "b": (100, 3), "k": (6, 100), "c": (5, 2)}


@pytest.mark.parametrize("apply", [computed, weighted])
def test_a_part_in_float_goes_through_everything(apply):
    x, params = np.asarray(normal(16, 4)), {name: normal(*s) for name, s in SHAPES.items()}
    model = hcjax.fold(hcjax.trace(apply, params, x))
    np.testing.assert_allclose(model.apply(model.params, x), apply(params, x), rtol=1e-4, atol=1e-4)
    small = hcjax.int8(model, hcjax.calibrate(model, x))
    (only,) = small.floats
    assert only.startswith("cond") and "test_regions.py" in only
    blob = hcjax.pack(small)
    back = hcjax.unpack(blob)
    np.testing.assert_array_equal(back.apply(back.params, x), small.apply(small.params, x))
    thin = hcjax.shrink(model, keep=0.5)
    assert (4, 6) in [leaf.shape for leaf in jax.tree.leaves(thin.params)]
    if apply is computed:  # the cosines take no room
        assert len(blob) < 2500
