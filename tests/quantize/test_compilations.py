"""Quantizing compiles a few programs for each layer, not one for each small op on a new shape."""

import jax
import jax.numpy as jnp
import pytest

import hcjax
from tests.draws import normal

WIDTHS = (67, 69, 71, 73, 75, 77)  # of which no other test has arrays


def chain(p, x):
    for w, b in zip(p["w"], p["b"], strict=True):
        x = jax.nn.relu(x @ w + b)
    return x


@pytest.mark.slow
def test_six_layers_of_different_shapes_take_few_compilations():
    """189 before, and 37 of `pack` and `unpack`."""
    kernels = [normal(m, n, seed=m) for m, n in zip((65, *WIDTHS), WIDTHS, strict=False)]
    params = {"w": kernels, "b": [jnp.zeros(n) + 0.1 for n in WIDTHS]}
    images = normal(4, 65, seed=1)
    model = hcjax.trace(chain, params, images)
    ranges = hcjax.calibrate(model, images)
    count, listening = [0], [True]

    def listener(event, duration, **_):
        count[0] += listening[0] and event == "/jax/core/compile/backend_compile_duration"

    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        small = hcjax.int8(model, ranges)
        first = count[0]
        hcjax.unpack(hcjax.pack(small))
        assert 0 < first <= 60 and count[0] - first <= 20, (first, count[0] - first)
    finally:
        listening[0] = False  # jax has no public way to take a listener out
