"""How an accelerated function is called: what it may change, keep and hold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from hcjax import accelerate
from tests.accelerate.test_accelerate import pool

IMAGE = jnp.ones((1, 4, 4, 1))


class Counter(nnx.Module):
    """An object that a step changes in place."""

    def __init__(self):
        self.seen = nnx.Variable(jnp.zeros(()))

    def __call__(self, x):
        self.seen[...] += 1
        return pool(x)


def test_a_change_in_place_is_refused_and_the_split_form_is_not():
    for fn in (lambda m, x: m(x), nnx.jit(lambda m, x: m(x))):
        with pytest.raises(TypeError, match=r"changes its argument Counter in place.*nnx\.split"):
            accelerate(fn, platform="cpu")(Counter(), IMAGE)
    graph, state = nnx.split(Counter())

    def step(state, x):
        counter = nnx.merge(graph, state)
        counter(x)
        return nnx.state(counter)

    assert accelerate(step, platform="cpu")(state, IMAGE).seen[...] == 1


def test_only_so_many_static_values_are_remembered(monkeypatch):
    traces = []

    def scaled(x, factor):
        traces.append(factor)
        return pool(x) * factor

    fast = accelerate(scaled, platform="cpu")
    for factor in [*range(100), 99, 0]:
        assert fast(IMAGE, factor)[0, 0, 0, 0] == factor
    assert traces == [*range(100), 0]


def test_bodies_of_what_cannot_be_bound_again_stay_whole():
    solve = lambda b: jax.scipy.sparse.linalg.cg(
        lambda x: 2 * x + pool(x.reshape(1, 16, 16, 1)).sum(), b
    )
    b = jnp.ones(256)  # long enough for the rule of thin products inside
    np.testing.assert_allclose(
        accelerate(solve, platform="cpu")(b)[0], solve(b)[0], rtol=1e-5, atol=1e-6
    )


def test_named_scopes_stay():
    def scoped(x):
        with jax.named_scope("mine"):
            return jnp.sin(pool(x))

    text = jax.jit(accelerate(scoped, platform="cpu")).lower(IMAGE).compile().as_text()
    assert "mine/sin" in text and "mine/max" in text
