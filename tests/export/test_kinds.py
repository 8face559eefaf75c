"""Damaged fields of every kind of op that moves, reduces or sorts: refused, or a sound Model."""

import json

import jax.numpy as jnp
import pytest
from jax import lax

import hcjax
from tests.export.damage import OTHERS, closed, opened, survives

IMAGES = jnp.linspace(-1.0, 1.0, 2 * 4 * 6, dtype=jnp.float32).reshape(2, 4, 6)
MIDDLES = {
    "gather": lambda x: jnp.take(x, jnp.array([0, 2, 1]), axis=1),
    "sort": lambda x: lax.sort((x, -x), num_keys=1)[1],
    "top_k": lambda x: lax.top_k(x, 3)[0],
    "cumsum": lambda x: jnp.cumsum(x, 1),
    "cumlogsumexp": lambda x: lax.cumlogsumexp(x, 1),
    "argmax": lambda x: x * jnp.argmax(x, 1, keepdims=True),
    "iota": lambda x: x + lax.broadcasted_iota(jnp.float32, x.shape, 1),
    "reduce_precision": lambda x: lax.reduce_precision(x, 8, 7),
    "dot_general": lambda x: jnp.dot(x, jnp.ones((6, 6)), precision="highest"),
}


@pytest.mark.parametrize("kind", MIDDLES)
def test_a_damaged_field_is_refused_or_harmless(kind):
    apply = lambda p, x: MIDDLES[kind](x).mean(1)[:, :3] @ p["w"]
    data = hcjax.pack(hcjax.trace(apply, {"w": jnp.ones((3, 2))}, IMAGES))
    assert survives(data)
    head, streams = opened(data)
    rows = [i for i, (name, *_) in enumerate(json.loads(head)["ops"]) if name == kind]
    assert rows
    for field in json.loads(head)["ops"][rows[0]][3]:
        for other in (*OTHERS, -(2**31), 99, [2**20, 2**20], {"b": [1, 0]}, {"t": "float64"}):
            damaged = json.loads(head)
            damaged["ops"][rows[0]][3][field] = other
            survives(closed(json.dumps(damaged).encode(), streams))
