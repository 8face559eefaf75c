"""Control flow that stays one op: loops and branches whose bodies are graphs.

The graph of a body has no constants: they are operands of the op.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import lax

from hcjax.graph.model import Graph, run, together
from hcjax.graph.ops.kind import BODY, Kind

# params that are not the same in the ops of one loop; of a body, its identity is
_OWN = ("body", "branches", "result", "macs")


def _scan(p: dict, *arrays: jax.Array) -> jax.Array:
    """Runs a loop of a known length and returns one of its results.

    The operands, and the inputs of the body, are `constants` arrays that are the same at each step,
    `carry` arrays that a step hands to the next, and arrays with one part for each step on their
    first axis. The results of the body are the new carry, and parts of stacked results.
    """
    fixed, start = arrays[: p["constants"]], arrays[p["constants"] :][: p["carry"]]

    def step(carry, parts):
        results = run(p["body"], {}, [*fixed, *carry, *parts], batch=p["batch"])
        return results[: p["carry"]], results[p["carry"] :]

    def results() -> list[jax.Array]:
        sliced = arrays[p["constants"] + p["carry"] :]
        end, stacked = lax.scan(step, list(start), sliced, p["length"], reverse=p["reverse"])
        return [*end, *stacked]

    return _once(results, p, arrays)[p["result"]]


def _cond(p: dict, index: jax.Array, *arrays: jax.Array) -> jax.Array:
    """Runs the branch of an index and returns one of its results."""

    def function(branch):
        return lambda *arrays: run(branch, {}, arrays, batch=p["batch"])

    def results() -> list[jax.Array]:
        return lax.switch(index, list(map(function, p["branches"])), *arrays)

    return _once(results, p, (index, *arrays))[p["result"]]


def _once(compute: Callable[[], list], p: dict, arrays: Sequence[jax.Array]) -> list:
    """Computes all results at the first op that asks for one of them; the others take theirs.

    XLA does not join two loops that are the same.
    """
    done = together.get()
    if done is None:
        return compute()
    same = [value for name, value in p.items() if name not in _OWN]
    key = (*same, *map(id, bodies(p)), *map(id, arrays))
    if key not in done:
        done[key] = (bodies(p), arrays, compute())  # kept, or an id would be another's
    return done[key][-1]


def bodies(params: dict[str, Any]) -> tuple[Graph, ...]:
    """Returns the graphs among an op's params."""
    return (*([params["body"]] if "body" in params else []), *params.get("branches", ()))


CONTROL_KINDS = {
    "scan": Kind(
        BODY, _scan, ("constants", "carry", "length", "reverse", "body", "batch", "result", "macs")
    ),
    "cond": Kind(BODY, _cond, ("branches", "batch", "result", "macs")),
}
