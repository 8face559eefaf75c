"""The walker: what it replaces, what it keeps, and what it knows of an equation."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from hcjax.core import walker
from tests.tiny import ROOT

# a program of its own, because the number of devices is fixed when jax starts
MAPPED = """
import os
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
import json
import jax, jax.numpy as jnp, numpy as np
from jax import lax
from jax.sharding import AxisType, PartitionSpec as P
from hcjax import accelerate

def pool(x):
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")

def body(x):
    y = lax.scan(lambda c, _: (c + lax.pmean(pool(x), "d"), pool(c)), pool(x), None, length=2)
    return jax.tree.map(lambda v: lax.pmean(v, "d") + 0 * v, y)

def grads(x):
    return lax.psum(jax.grad(lambda x: (pool(x) ** 2).sum())(x), "d") + 0 * x

mesh = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Auto,))
fast = lambda f: accelerate(f, platform="cpu")
mapped = lambda f: jax.shard_map(f, mesh=mesh, in_specs=P("d"), out_specs=P("d"))
x = jnp.asarray(np.random.default_rng(0).integers(-4, 5, (4, 8, 8, 3)), jnp.float32)
split = x.reshape(2, 2, 8, 8, 3)
found = {}
for name, f in {"body": body, "grads": grads}.items():
    f = f if name == "grads" else lambda x: jax.tree.leaves(body(x))[0]
    same = lambda a, b: bool((np.asarray(a) == np.asarray(b)).all())
    found[name] = [
        same(jax.jit(mapped(fast(f)))(x), mapped(f)(x)),
        same(fast(mapped(f))(x), mapped(f)(x)),
        same(jax.jit(fast(mapped(f)))(x), mapped(f)(x)),
        same(jax.pmap(fast(f), "d")(split), jax.pmap(f, "d")(split)),
        same(fast(jax.pmap(f, "d"))(split), jax.pmap(f, "d")(split)),
    ]
    text = str(jax.make_jaxpr(fast(mapped(f)))(x))
    text += str(jax.make_jaxpr(fast(jax.pmap(f, "d")))(split))
    found[name].append("reduce_window" not in text and "select_and_scatter" not in text)
print(json.dumps(found))
"""


@pytest.mark.slow
def test_mapped_bodies_are_rewritten_from_inside_and_outside():
    run = subprocess.run(
        [sys.executable, "-c", MAPPED], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == {"body": [True] * 6, "grads": [True] * 6}


def cosine(eqn, place):
    return jnp.cos if eqn.primitive.name == "sin" else None


def test_nothing_to_replace_gives_none():
    assert walker.rewrite(jax.make_jaxpr(lambda x: x * 2)(1.0), cosine) is None


def test_constants_literals_and_unused_values_are_handled():
    table = jnp.arange(3.0)

    def fn(x, unused):
        a, _ = jnp.sin(x), jnp.exp(x)
        return a + table, 5.0, x

    jaxpr = jax.make_jaxpr(fn)(0.0, 1.0)
    out = walker.rewrite(jaxpr, cosine)(0.0, 1.0)
    np.testing.assert_allclose(out[0], table + 1)
    assert [float(v) for v in out[1:]] == [5.0, 0.0]


def test_loops_are_known_as_such():
    def fn(x):
        y = jnp.sin(x)
        return lax.scan(
            lambda c, _: (lax.cond(c > 0, jnp.sin, jnp.cos, c), None), y, None, length=2
        )

    found = [
        (e.primitive.name, place.loop) for e, place in walker.equations(jax.make_jaxpr(fn)(1.0))
    ]
    assert ("sin", False) in found and ("sin", True) in found and ("cond", True) in found


def test_a_rewrite_that_changes_types_is_refused():
    jaxpr = jax.make_jaxpr(jax.jit(jnp.sin))(1.0)
    choose = lambda eqn, place: (
        (lambda x: jnp.cos(x).astype(jnp.bfloat16)) if eqn.primitive.name == "sin" else None
    )
    with pytest.raises(TypeError, match="changed types"):
        walker.rewrite(jaxpr, choose)


def test_a_replacement_may_read_what_was_made_before():
    def fn(x):
        y = jnp.exp(x)
        return jnp.sin(y * 2.0)

    def choose(eqn, place):
        if eqn.primitive.name != "sin":
            return None
        product = place.producer(eqn.invars[0])
        assert place.producer(product.invars[1]) is None  # a literal
        return walker.Replacement((product.invars[0],), lambda y: y + 1)

    for nested in (fn, jax.jit(fn)):
        run = walker.rewrite(jax.make_jaxpr(nested)(1.0), choose)
        assert run(0.0) == [2.0]


def test_constants_are_known_where_a_replacement_may_hold_others():
    held = jnp.arange(3.0)
    inner = jax.jit(lambda x: x * held)

    def seen(jaxpr):
        return [
            place.constant(v)
            for eqn, place in walker.equations(jaxpr)
            if eqn.primitive.name == "mul"
            for v in eqn.invars
        ]

    [none, found] = seen(jax.make_jaxpr(lambda x: x * held)(held))
    assert none is None
    np.testing.assert_array_equal(found, held)
    np.testing.assert_array_equal(seen(jax.make_jaxpr(inner)(held))[1], held)
    twice = jax.jit(lambda x, y: x * y)
    passed = seen(jax.make_jaxpr(lambda x: twice(twice(x, x), held))(held))
    assert passed[:3] == [None] * 3
    np.testing.assert_array_equal(passed[3], held)
    looped = jax.make_jaxpr(lambda x: lax.fori_loop(0, 3, lambda i, c: c * held, x))(held)
    assert seen(looped) == [None, None]
    assert seen(jax.make_jaxpr(lambda x: 2.0 * x)(1.0)) == [None, None]


def test_the_source_line_is_the_users():
    def mine(x):
        return jax.nn.relu(x)

    eqn = jax.make_jaxpr(jax.grad(mine))(1.0).jaxpr.eqns[0]
    assert walker.source_line(eqn).startswith("test_walker.py:")
    assert walker.source_line(eqn).endswith("(mine)")


def test_contexts_stay():
    def fn(x):
        with jax.default_matmul_precision("highest"):
            return jnp.sin(x) @ x

    jaxpr = jax.make_jaxpr(fn)(jnp.ones((2, 2)))
    again = jax.make_jaxpr(walker.rewrite(jaxpr, cosine))(jnp.ones((2, 2)))
    assert "HIGHEST" in str(again)
