"""Walks a jaxpr and runs it with some equations replaced, inside nested jaxprs too.

In: a jaxpr and a chooser, which names a replacement for an equation or leaves it. Out: a function.
Shared by `accelerate` and the graph readings; the one file that touches `jax.extend`,
`JaxprEqn.ctx` and `JaxprEqn.source_info`.
"""

from __future__ import annotations

import site
import sysconfig
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import jax
from jax.extend import core

Eqn = core.JaxprEqn
Literal = core.Literal


class Place(NamedTuple):
    """The place of an equation in a program.

    loop: whether a loop repeats the equation. producers: variable -> equation that computes it,
    for the variables of the same jaxpr. uses: variable -> how often its equations and results read
    it. constants: variable -> array that it always is; None where the program cannot hold others,
    as in the bodies of loops.
    """

    loop: bool
    producers: Mapping[core.Var, Eqn]
    uses: Mapping[core.Var, int]
    constants: Mapping[core.Var, Any] | None = None

    def producer(self, v: core.Var | Literal) -> Eqn | None:
        """Returns the equation that computes a variable; None for an input or a literal."""
        return None if is_literal(v) else self.producers.get(v)

    def constant(self, v: core.Var | Literal) -> Any:
        """Returns the array that a variable always is; None if it is computed, or an input.

        A replacement may read another constant instead of one that this returns.
        """
        return None if self.constants is None or is_literal(v) else self.constants.get(v)


class Replacement(NamedTuple):
    """A function to run in place of an equation, on other variables than the equation's inputs.

    inputs: variables of the same jaxpr, computed before the equation. run: a function of them.
    """

    inputs: tuple[core.Var, ...]
    run: Callable[..., Any]


# names a function of the equation's own inputs, or a Replacement; None keeps the equation
Chooser = Callable[[Eqn, Place], Callable[..., Any] | Replacement | None]

LOOPS = ("scan", "while")
# equations whose nested jaxpr holds constants of its own
_HOLDERS = ("jit", "pjit")
# equations with a nested jaxpr that cannot be bound again from outside
_MAPS = ("shard_map",)
# equations whose nested jaxprs are plain functions of arrays and may be replaced
_CALLS = (*LOOPS, "cond", "jit", "pjit", "closed_call", "core_call", "xla_pmap", "checkpoint")
_CALLS += ("remat", "remat2", "custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr")


def as_closed(jaxpr: Any) -> core.ClosedJaxpr:
    """Closes a jaxpr that a primitive keeps without constants; returns a closed one as it is."""
    return jaxpr if hasattr(jaxpr, "consts") else core.ClosedJaxpr(jaxpr, ())


def nested_jaxprs(eqn: Eqn) -> dict[str, list]:
    """Returns the jaxprs among an equation's parameters: parameter name -> jaxprs."""
    by_name = {}
    for name, value in eqn.params.items():
        values = value if isinstance(value, tuple | list) else (value,)
        if jaxprs := [v for v in values if isinstance(v, core.ClosedJaxpr | core.Jaxpr)]:
            by_name[name] = jaxprs
    return by_name


def equations(jaxpr: Any, loop: bool = False) -> Iterator[tuple[Eqn, Place]]:
    """Yields every equation with its place, those of nested jaxprs included.

    Example:
      >>> import jax.numpy as jnp
      >>> jaxpr = jax.make_jaxpr(jax.jit(lambda x: jnp.sin(x) + 1.0))(1.0)
      >>> [eqn.primitive.name for eqn, _ in equations(jaxpr)][1:]
      ['sin', 'add']
    """
    yield from _equations(as_closed(jaxpr), loop, {})


def _equations(closed: core.ClosedJaxpr, loop: bool, known: Mapping | None) -> Iterator:
    place = _place_in(closed, loop, known)
    for eqn in closed.jaxpr.eqns:
        yield eqn, place
        in_loop = loop or eqn.primitive.name in LOOPS
        for jaxprs in nested_jaxprs(eqn).values():
            for nested in map(as_closed, jaxprs):
                yield from _equations(nested, in_loop, _known_in(nested, eqn, place))


def rewrite(jaxpr: Any, choose: Chooser, *, loop: bool = False) -> Callable[..., list] | None:
    """Returns a function that runs a jaxpr with the chosen equations replaced.

    Every other equation is bound again in its own context: effects, shardings, donated arguments,
    custom derivative rules and remat stay. The bodies of scan, while, cond, jit, remat, shard_map
    and custom rules are rewritten too; others (a solver's, a Pallas kernel's) stay as they are.

    Args:
      jaxpr: closed, or without constants.
      choose: `(equation, place) -> function of the equation's inputs, Replacement, or None`.
      loop: whether this jaxpr is itself the body of a loop.

    Returns:
      A function from the jaxpr's inputs to the list of its outputs; None if no equation is
      replaced. Call it in the context (mesh, named axes) that the jaxpr was traced in.

    Example:
      >>> import jax.numpy as jnp
      >>> jaxpr = jax.make_jaxpr(jax.jit(lambda x: jnp.sin(x) + 1.0))(2.0)
      >>> choose = lambda eqn, place: jnp.cos if eqn.primitive.name == "sin" else None
      >>> [float(x) for x in rewrite(jaxpr, choose)(0.0)]
      [2.0]
    """
    return _rewrite(as_closed(jaxpr), choose, loop, {})


def _rewrite(
    closed: core.ClosedJaxpr, choose: Chooser, loop: bool, known: Mapping | None
) -> Callable[..., list] | None:
    place = _place_in(closed, loop, known)
    replacements = [_replacement(eqn, choose, place) for eqn in closed.jaxpr.eqns]
    if not any(replacements):
        return None
    dead = _dead_after(closed.jaxpr, replacements)
    return lambda *inputs: _evaluate(closed, replacements, dead, inputs)


def bind(eqn: Eqn, inputs: Sequence[Any], params: dict | None = None) -> list:
    """Binds an equation's primitive again, to other inputs and, if given, other parameters."""
    primitive = eqn.primitive
    params = eqn.params if params is None else params
    with eqn.ctx.manager:
        outputs = primitive.bind(*inputs, **primitive.get_bind_params(params))
    return list(outputs) if primitive.multiple_results else [outputs]


def run(eqn: Eqn, inputs: Sequence[Any]) -> list:
    """Binds an equation again, as `bind` does, under the names that profiles show it by."""
    with _name_scope(eqn):
        return bind(eqn, inputs)


def _name_scope(eqn: Eqn) -> AbstractContextManager:
    """Enters the user's `named_scope`, for profiles to show it."""
    return jax.named_scope(s) if (s := str(eqn.source_info.name_stack)) else nullcontext()


def source_line(eqn: Eqn) -> str:
    """Returns the user's source line of an equation, 'model.py:12 (block)'; '' if unknown.

    It is the first frame outside the standard library and installed packages.
    """
    traceback = eqn.source_info.traceback
    if traceback is None:
        return ""
    for frame in traceback.frames:
        if is_user_code(frame.file_name):
            file, function = frame.file_name.rsplit("/", 1)[-1], frame.function_name
            return f"{file}:{frame.line_num} ({function.rsplit('.', 1)[-1]})"
    return ""


def is_user_code(file_name: str) -> bool:
    """Tells whether a source file is neither installed nor part of the standard library."""
    return not file_name.startswith((*_INSTALLED, "<"))


_INSTALLED = (*site.getsitepackages(), site.getusersitepackages(), sysconfig.get_path("stdlib"))


def _place_in(closed: core.ClosedJaxpr, loop: bool, known: Mapping | None) -> Place:
    """Returns the place in a jaxpr; known: inputs that always are the same -> their arrays.

    None for a jaxpr that cannot hold other constants than it does.
    """
    jaxpr = closed.jaxpr
    reads = [v for eqn in jaxpr.eqns for v in eqn.invars] + list(jaxpr.outvars)
    uses = Counter(v for v in reads if not is_literal(v))
    producers = {v: eqn for eqn in jaxpr.eqns for v in eqn.outvars}
    if known is not None:
        known = {**known, **dict(zip(jaxpr.constvars, closed.consts, strict=True))}
    return Place(loop, producers, uses, known)


def _known_in(closed: core.ClosedJaxpr, eqn: Eqn, place: Place) -> Mapping | None:
    """Returns what `_place_in` takes for a jaxpr among an equation's parameters."""
    if place.constants is None or eqn.primitive.name not in _HOLDERS:
        return None
    pairs = zip(closed.jaxpr.invars, map(place.constant, eqn.invars), strict=True)
    return {v: value for v, value in pairs if value is not None}


def _dead_after(jaxpr: core.Jaxpr, replacements: list) -> list[set]:
    """Returns, for each equation, the variables that nothing reads after it."""
    reads = [
        [v for v in (*eqn.invars, *(new.inputs if new else ())) if not is_literal(v)]
        for eqn, new in zip(jaxpr.eqns, replacements, strict=True)
    ]
    last = {v: i for i, variables in enumerate(reads) for v in variables}
    last |= {v: len(jaxpr.eqns) for v in jaxpr.outvars if not is_literal(v)}
    return [
        {v for v in (*reads[i], *eqn.outvars) if last.get(v, i) <= i}
        for i, eqn in enumerate(jaxpr.eqns)
    ]


def _evaluate(
    closed: core.ClosedJaxpr, replacements: list, dead: list[set], inputs: Sequence[Any]
) -> list:
    """Evaluates a closed jaxpr, equation by equation."""
    jaxpr = closed.jaxpr
    env = dict(zip(jaxpr.constvars, closed.consts, strict=True))
    env |= zip(jaxpr.invars, inputs, strict=True)

    def read(v):
        return v.val if is_literal(v) else env[v]

    for eqn, new, dead_here in zip(jaxpr.eqns, replacements, dead, strict=True):
        values = [read(v) for v in (new.inputs if new else eqn.invars)]
        with _name_scope(eqn):
            outputs = new.run(*values) if new else bind(eqn, values)
        env |= zip(eqn.outvars, outputs, strict=True)
        for v in dead_here:
            env.pop(v, None)
    return [read(v) for v in jaxpr.outvars]


def _replacement(eqn: Eqn, choose: Chooser, place: Place) -> Replacement | None:
    """Returns the replacement of an equation, whose `run` gives a list; None to keep it."""
    inputs = tuple(eqn.invars)
    if chosen := choose(eqn, place):
        new = chosen if isinstance(chosen, Replacement) else Replacement(inputs, chosen)
        return new._replace(run=lambda *values: _as_list(new.run(*values), eqn))
    loop = place.loop or eqn.primitive.name in LOOPS
    if eqn.primitive.name in _MAPS:
        body = as_closed(eqn.params["jaxpr"])
        if not any(choose(*each) for each in _equations(body, loop, None)):
            return None
        return Replacement(inputs, _rewrite_shard_map(eqn, choose, loop))
    changed = {}
    nested = nested_jaxprs(eqn) if eqn.primitive.name in _CALLS else {}
    for name, old in nested.items():
        known = [_known_in(as_closed(jaxpr), eqn, place) for jaxpr in old]
        new = [_rewrite_nested(a, choose, loop, k) for a, k in zip(old, known, strict=True)]
        if any(b is not a for a, b in zip(old, new, strict=True)):
            changed[name] = tuple(new) if isinstance(eqn.params[name], tuple | list) else new[0]
    if not changed:
        return None
    return Replacement(inputs, lambda *values: bind(eqn, values, eqn.params | changed))


def _rewrite_nested(jaxpr: Any, choose: Chooser, loop: bool, known: Mapping | None) -> Any:
    """Rewrites a nested jaxpr to one of the same type; returns it itself if nothing changes."""
    closed = as_closed(jaxpr)
    function = _rewrite(closed, choose, loop, known)
    if function is None:
        return jaxpr
    new = jax.make_jaxpr(function)(*closed.in_avals)
    if new.out_avals != closed.out_avals:
        raise TypeError(f"a rewrite changed types: {closed.out_avals} to {new.out_avals}")
    if known is None and len(new.consts) != len(closed.consts):
        raise TypeError("a rewrite made an array constant, which a nested body cannot hold")
    return new if isinstance(jaxpr, core.ClosedJaxpr) else new.jaxpr


def _rewrite_shard_map(eqn: Eqn, choose: Chooser, loop: bool) -> Callable[..., list]:
    """Returns a shard_map whose body is rewritten inside it, where its axes exist."""
    params, body = eqn.params, as_closed(eqn.params["jaxpr"])
    return jax.shard_map(
        lambda *inputs: tuple(_rewrite(body, choose, loop, None)(*inputs)),
        mesh=params["mesh"],
        in_specs=tuple(params["in_specs"]),
        out_specs=tuple(params["out_specs"]),
        check_vma=params["check_vma"],
        axis_names=params["newly_manual_axes"],
    )


def _as_list(outputs: Any, eqn: Eqn) -> list:
    return list(outputs) if eqn.primitive.multiple_results else [outputs]


def is_literal(v: Any) -> bool:
    """Tells a literal from a variable."""
    return isinstance(v, Literal)
