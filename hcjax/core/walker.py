"""Walks a jaxpr: runs it with some of its equations replaced, inside nested bodies too.

In: a jaxpr and a choice, equation by equation, of what to run instead. Out: a function. Shared by
`accelerate` and the graph readings; the one file that touches `jax.extend`, `JaxprEqn.ctx` and
`JaxprEqn.source_info`.
"""

from __future__ import annotations

import site
import sysconfig
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import jax
from jax.extend import core

Eqn = core.JaxprEqn
Literal = core.Literal


class Place(NamedTuple):
    """Where an equation stands.

    loop: whether a loop repeats it. made: the equation that made each variable of its body.
    """

    loop: bool
    made: Mapping[core.Var, Eqn]

    def maker(self, v: core.Var | Literal) -> Eqn | None:
        """Returns the equation that made a variable; None for an input or a literal."""
        return None if _literal(v) else self.made.get(v)


class Instead(NamedTuple):
    """What to run for an equation from other variables of its body than its own inputs.

    inputs: variables made before it. run: a function of them.
    """

    inputs: tuple[core.Var, ...]
    run: Callable[..., Any]


# what to run instead of an equation, of its own inputs or of others; None to bind it as it is
Choose = Callable[[Eqn, Place], Callable[..., Any] | Instead | None]

LOOPS = ("scan", "while")
# equations that hold a body of their own and cannot be bound again from outside
_MAPS = ("shard_map",)
# equations whose bodies are plain functions of arrays, and may be exchanged; others stay whole
_CALLS = (*LOOPS, "cond", "jit", "pjit", "closed_call", "core_call", "xla_pmap", "checkpoint")
_CALLS += ("remat", "remat2", "custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr")


def closed(body: Any) -> core.ClosedJaxpr:
    """Returns a jaxpr with its constants, whichever form a primitive keeps it in."""
    return body if hasattr(body, "consts") else core.ClosedJaxpr(body, ())


def bodies(eqn: Eqn) -> dict[str, list]:
    """Returns the jaxprs among an equation's parameters, by parameter."""
    found = {}
    for name, value in eqn.params.items():
        values = value if isinstance(value, tuple | list) else (value,)
        if inside := [v for v in values if isinstance(v, core.ClosedJaxpr | core.Jaxpr)]:
            found[name] = inside
    return found


def equations(jaxpr: Any, loop: bool = False) -> Iterator[tuple[Eqn, Place]]:
    """Yields every equation, those of nested bodies included, and where it stands.

    Example:
      >>> import jax.numpy as jnp
      >>> jaxpr = jax.make_jaxpr(jax.jit(lambda x: jnp.sin(x) + 1.0))(1.0)
      >>> [eqn.primitive.name for eqn, _ in equations(jaxpr)][1:]
      ['sin', 'add']
    """
    place = _place(closed(jaxpr).jaxpr, loop)
    for eqn in closed(jaxpr).jaxpr.eqns:
        yield eqn, place
        inside = loop or eqn.primitive.name in LOOPS
        for values in bodies(eqn).values():
            for body in values:
                yield from equations(body, inside)


def rewritten(jaxpr: Any, choose: Choose, *, loop: bool = False) -> Callable[..., list] | None:
    """Returns a function that runs a jaxpr with the chosen equations replaced.

    Everything else is bound as it was, in its own context: effects, shardings, donated arguments,
    custom derivative rules and remat stay. Bodies of scan, while, cond, jit, remat, shard_map and
    of custom rules are rewritten too; others (a solver's, a Pallas kernel's) stay as they are.

    Args:
      jaxpr: closed, or without constants.
      choose: `(equation, place) -> function of the equation's inputs, Instead, or None`.
      loop: whether this jaxpr is itself the body of a loop.

    Returns:
      A function of the jaxpr's inputs that returns the list of its outputs; None if nothing in it
      would be replaced. Call it in the context (mesh, named axes) that the jaxpr was traced in.

    Example:
      >>> import jax.numpy as jnp
      >>> jaxpr = jax.make_jaxpr(jax.jit(lambda x: jnp.sin(x) + 1.0))(2.0)
      >>> choose = lambda eqn, place: jnp.cos if eqn.primitive.name == "sin" else None
      >>> [float(x) for x in rewritten(jaxpr, choose)(0.0)]
      [2.0]
    """
    whole = closed(jaxpr)
    place = _place(whole.jaxpr, loop)
    steps = [_step(eqn, choose, place) for eqn in whole.jaxpr.eqns]
    if not any(steps):
        return None
    forgotten = _forgotten(whole.jaxpr, steps)
    return lambda *inputs: _run(whole, steps, forgotten, inputs)


def bind(eqn: Eqn, inputs: Sequence[Any], params: dict | None = None) -> list:
    """Returns an equation's outputs for other inputs, and, if given, other parameters."""
    primitive = eqn.primitive
    params = eqn.params if params is None else params
    with eqn.ctx.manager:
        outputs = primitive.bind(*inputs, **primitive.get_bind_params(params))
    return list(outputs) if primitive.multiple_results else [outputs]


def _named(eqn: Eqn) -> AbstractContextManager:
    """Returns the user's `named_scope`, for profiles to show it."""
    return jax.named_scope(s) if (s := str(eqn.source_info.name_stack)) else nullcontext()


def source_line(eqn: Eqn) -> str:
    """Returns where the user wrote an equation: 'model.py:12 (block)', '' if that is unknown.

    The first frame outside the standard library and installed packages.
    """
    traceback = eqn.source_info.traceback
    if traceback is None:
        return ""
    for frame in traceback.frames:
        if is_users(frame.file_name):
            file, function = frame.file_name.rsplit("/", 1)[-1], frame.function_name
            return f"{file}:{frame.line_num} ({function.rsplit('.', 1)[-1]})"
    return ""


def is_users(file_name: str) -> bool:
    """Returns whether a source file is neither installed nor part of the standard library."""
    return not file_name.startswith((*_INSTALLED, "<"))


_INSTALLED = (*site.getsitepackages(), site.getusersitepackages(), sysconfig.get_path("stdlib"))


def _place(jaxpr: core.Jaxpr, loop: bool) -> Place:
    return Place(loop, {v: eqn for eqn in jaxpr.eqns for v in eqn.outvars})


def _forgotten(jaxpr: core.Jaxpr, steps: list) -> list[set]:
    """Returns the variables that are read no more after each equation."""
    read = [
        [v for v in (*eqn.invars, *(step.inputs if step else ())) if not _literal(v)]
        for eqn, step in zip(jaxpr.eqns, steps, strict=True)
    ]
    last = {v: i for i, variables in enumerate(read) for v in variables}
    last |= {v: len(jaxpr.eqns) for v in jaxpr.outvars if not _literal(v)}
    return [
        {v for v in (*read[i], *eqn.outvars) if last.get(v, i) <= i}
        for i, eqn in enumerate(jaxpr.eqns)
    ]


def _run(whole: core.ClosedJaxpr, steps: list, forgotten: list[set], inputs: Sequence[Any]) -> list:
    """Evaluates a closed jaxpr, equation by equation."""
    jaxpr = whole.jaxpr
    env = dict(zip(jaxpr.constvars, whole.consts, strict=True))
    env |= zip(jaxpr.invars, inputs, strict=True)

    def read(v):
        return v.val if _literal(v) else env[v]

    for eqn, step, gone in zip(jaxpr.eqns, steps, forgotten, strict=True):
        values = [read(v) for v in (step.inputs if step else eqn.invars)]
        with _named(eqn):
            made = step.run(*values) if step else bind(eqn, values)
        env |= zip(eqn.outvars, made, strict=True)
        for v in gone:
            env.pop(v, None)
    return [read(v) for v in jaxpr.outvars]


def _step(eqn: Eqn, choose: Choose, place: Place) -> Instead | None:
    """Returns what runs in place of an equation, as a list; None to bind it as it is."""
    if chosen := choose(eqn, place):
        found = chosen if isinstance(chosen, Instead) else Instead(tuple(eqn.invars), chosen)
        return found._replace(run=lambda *inputs: _as_list(found.run(*inputs), eqn))
    loop = place.loop or eqn.primitive.name in LOOPS
    if eqn.primitive.name in _MAPS:
        inside = equations(eqn.params["jaxpr"], loop)
        if not any(choose(*e) for e in inside):
            return None
        return Instead(tuple(eqn.invars), _mapped(eqn, choose, loop))
    changed = {}
    inside = bodies(eqn) if eqn.primitive.name in _CALLS else {}
    for name, found in inside.items():
        new = [_body(body, choose, loop) for body in found]
        if any(b is not a for a, b in zip(found, new, strict=True)):
            changed[name] = tuple(new) if isinstance(eqn.params[name], tuple | list) else new[0]
    if not changed:
        return None
    return Instead(tuple(eqn.invars), lambda *inputs: bind(eqn, inputs, eqn.params | changed))


def _body(body: Any, choose: Choose, loop: bool) -> Any:
    """Returns a nested jaxpr rewritten, of the same type; itself if nothing in it changes."""
    function = rewritten(body, choose, loop=loop)
    if function is None:
        return body
    new = jax.make_jaxpr(function)(*closed(body).in_avals)
    if new.out_avals != closed(body).out_avals:
        raise TypeError(f"a rewrite changed types: {closed(body).out_avals} to {new.out_avals}")
    if len(new.consts) != len(closed(body).consts):
        raise TypeError("a rewrite made an array constant, which a nested body cannot hold")
    return new if isinstance(body, core.ClosedJaxpr) else new.jaxpr


def _mapped(eqn: Eqn, choose: Choose, loop: bool) -> Callable[..., list]:
    """Returns a shard_map whose body is rewritten where its axes exist: inside."""
    params = eqn.params
    return jax.shard_map(
        lambda *inputs: tuple(rewritten(params["jaxpr"], choose, loop=loop)(*inputs)),
        mesh=params["mesh"],
        in_specs=tuple(params["in_specs"]),
        out_specs=tuple(params["out_specs"]),
        check_vma=params["check_vma"],
        axis_names=params["newly_manual_axes"],
    )


def _as_list(outputs: Any, eqn: Eqn) -> list:
    return list(outputs) if eqn.primitive.multiple_results else [outputs]


def _literal(v: Any) -> bool:
    return isinstance(v, Literal)
