"""A jaxpr as one list of steps: plain calls of jitted functions are opened.

In: a closed jaxpr. Out: steps, each an equation between variables of the program.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from hcjax.core import walker
from hcjax.core.walker import is_literal

_OPENED = ("jit", "pjit", "closed_call")


class Variable:
    """A variable of an opened call: an identity with a type."""

    def __init__(self, aval: Any):
        self.aval = aval


class Step(NamedTuple):
    """An equation that reads and writes variables of the flat program instead of its own."""

    eqn: walker.Eqn
    reads: tuple[Any, ...]
    writes: tuple[Any, ...]

    @property
    def name(self) -> str:
        """The primitive's name."""
        return self.eqn.primitive.name


class Flat(NamedTuple):
    """A program: steps in order; inputs and results are variables, results literals too."""

    steps: list[Step]
    inputs: list[Any]
    results: list[Any]
    constants: dict[Any, Any]


def flat(closed: Any) -> Flat:
    """Returns a closed jaxpr as a flat program.

    Opened are calls that say nothing of shardings or donation. Loops, branches, custom derivative
    rules and mapped functions stay whole.
    """
    jaxpr = closed.jaxpr
    constants = dict(zip(jaxpr.constvars, closed.consts, strict=True))
    names = {v: v for v in (*jaxpr.constvars, *jaxpr.invars)}
    steps: list[Step] = []
    _add(jaxpr.eqns, names, steps, constants)
    return Flat(steps, list(jaxpr.invars), read(jaxpr.outvars, names), constants)


def read(variables: Sequence[Any], names: dict) -> list:
    """Returns variables by their names; literals stay."""
    return [v if is_literal(v) else names[v] for v in variables]


def _add(eqns: Sequence, names: dict, steps: list[Step], constants: dict) -> None:
    """Appends equations to the steps; names: variable of the jaxpr -> that of the program."""
    for eqn in eqns:
        reads = read(eqn.invars, names)
        if eqn.primitive.name in _OPENED and _is_plain(eqn):
            body = eqn.params["call_jaxpr" if "call_jaxpr" in eqn.params else "jaxpr"]
            body = walker.as_closed(body)
            inner = dict(zip(body.jaxpr.invars, reads, strict=True))
            for v, value in zip(body.jaxpr.constvars, body.consts, strict=True):
                inner[v] = Variable(v.aval)
                constants[inner[v]] = value
            _add(body.jaxpr.eqns, inner, steps, constants)
            names.update(zip(eqn.outvars, read(body.jaxpr.outvars, inner), strict=True))
            continue
        # one jaxpr may be opened twice, so that its variables need new names each time
        writes = [Variable(v.aval) for v in eqn.outvars]
        names.update(zip(eqn.outvars, writes, strict=True))
        steps.append(Step(eqn, tuple(reads), tuple(writes)))


def _is_plain(eqn: walker.Eqn) -> bool:
    """Tells whether a call only names a function."""
    params = eqn.params
    shardings = (*params.get("in_shardings", ()), *params.get("out_shardings", ()))
    layouts = (*params.get("in_layouts", ()), *params.get("out_layouts", ()))
    return (
        not eqn.effects
        and not any(params.get("donated_invars", ()))
        and all(type(s).__name__ == "UnspecifiedValue" for s in shardings)
        and all(layout is None for layout in layouts)
    )
