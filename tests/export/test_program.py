"""What every exporter reads of a network, and the walk that hands its ops to emitters."""

import jax.numpy as jnp
import numpy as np
import pytest

from hcjax import trace
from hcjax.errors import ConfigError
from hcjax.export.program import program, walk


def network(p, x):
    y = jnp.sort(x @ (p["w"] * 2), axis=-1)
    return y + p["b"].reshape(1, 2) + jnp.broadcast_to(p["b"], y.shape)


def made():
    params = {"w": jnp.ones((3, 2)), "b": jnp.arange(2.0)}
    return trace(network, params, jnp.ones((2, 3)))


def test_constants_are_evaluated_and_what_the_batch_shapes_is_not():
    found = program(made())
    kinds = [op.kind for op in found.ops]
    assert kinds.count("dot_general") == 1 and "mul" not in kinds and "reshape" not in kinds
    numbers = {n for op in found.ops for n in op.inputs}
    computed = {op.output for op in found.ops} | set(found.model.graph.inputs)
    assert set(found.values) == numbers - computed
    assert any((np.asarray(v) == 2).all() for v in found.values.values() if np.ndim(v) == 2)
    assert all(n in found.shapes and n in found.dtypes for n in computed)


def test_ops_are_handed_over_in_order():
    seen = []
    table = dict.fromkeys(("dot_general", "sort", "add", "broadcast_in_dim"), seen.append)
    walk(program(made()), {k: lambda w, op: w.append(op.kind) for k in table}, seen, "a list")
    assert seen[:2] == ["dot_general", "sort"] and seen.count("add") == 2


def test_kinds_without_an_emitter_are_named_with_the_users_lines():
    with pytest.raises(ConfigError, match=r"ONNX cannot be written.*sort \(.*test_program.py:\d+ "):
        walk(program(made()), {"dot_general": None, "add": None}, None, "ONNX")
