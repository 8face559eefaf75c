"""Control flow that stays one op: loops and branches whose bodies are graphs.

The graph of a body has no constants: they are operands of the op.
"""

from __future__ import annotations

from typing import Any

import jax
from jax import lax

from hcjax.graph.model import Graph, run
from hcjax.graph.ops.kind import BODY, Kind


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

    sliced = arrays[p["constants"] + p["carry"] :]
    end, stacked = lax.scan(step, list(start), sliced, p["length"], reverse=p["reverse"])
    return [*end, *stacked][p["result"]]


def _cond(p: dict, index: jax.Array, *arrays: jax.Array) -> jax.Array:
    """Runs the branch of an index and returns one of its results."""

    def function(branch):
        return lambda *arrays: run(branch, {}, arrays, batch=p["batch"])[p["result"]]

    return lax.switch(index, list(map(function, p["branches"])), *arrays)


def bodies(params: dict[str, Any]) -> tuple[Graph, ...]:
    """Returns the graphs among an op's params."""
    return (*([params["body"]] if "body" in params else []), *params.get("branches", ()))


CONTROL_KINDS = {
    "scan": Kind(
        BODY, _scan, ("constants", "carry", "length", "reverse", "body", "batch", "result", "macs")
    ),
    "cond": Kind(BODY, _cond, ("branches", "batch", "result", "macs")),
}
