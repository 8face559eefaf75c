"""Walks a jaxpr: runs it with some of its equations replaced, inside nested bodies too.

In: a jaxpr and a choice, equation by equation, of what to run instead. Out: a function. Shared by
`accelerate` and the graph readings; the one file that touches `jax.extend`, `JaxprEqn.ctx` and
`JaxprEqn.source_info`.
"""

from __future__ import annotations

import site
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from jax.extend import core

Eqn = core.JaxprEqn
Literal = core.Literal
# (equation, whether it runs in the body of a loop) -> what to run instead, or None
Choose = Callable[[Eqn, bool], Callable[..., Any] | None]

LOOPS = ("scan", "while")
# equations that hold a body of their own and cannot be bound again from outside
_MAPS = ("shard_map",)


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


def equations(jaxpr: Any, loop: bool = False) -> Iterator[tuple[Eqn, bool]]:
    """Yields every equation, those of nested bodies included, and whether a loop repeats it.

    Example:
      >>> import jax.numpy as jnp
      >>> jaxpr = jax.make_jaxpr(jax.jit(lambda x: jnp.sin(x) + 1.0))(1.0)
      >>> [eqn.primitive.name for eqn, _ in equations(jaxpr)][1:]
      ['sin', 'add']
    """
    for eqn in closed(jaxpr).jaxpr.eqns:
        yield eqn, loop
        inside = loop or eqn.primitive.name in LOOPS
        for values in bodies(eqn).values():
            for body in values:
                yield from equations(body, inside)


def rewritten(jaxpr: Any, choose: Choose, *, loop: bool = False) -> Callable[..., list] | None:
    """Returns a function that runs a jaxpr with the chosen equations replaced.

    Everything else is bound as it was, in its own context: effects, shardings, donated arguments,
    custom derivative rules and remat stay. Bodies of scan, while, cond, jit, remat, shard_map and
    of custom rules are rewritten too.

    Args:
      jaxpr: closed, or without constants.
      choose: `(equation, in a loop) -> function of the equation's inputs, or None`.
      loop: whether this jaxpr is itself the body of a loop.

    Returns:
      A function of the jaxpr's inputs that returns the list of its outputs; None if nothing in it
      would be replaced. Call it in the context (mesh, named axes) that the jaxpr was traced in.

    Example:
      >>> import jax.numpy as jnp
      >>> jaxpr = jax.make_jaxpr(jax.jit(lambda x: jnp.sin(x) + 1.0))(2.0)
      >>> choose = lambda eqn, loop: jnp.cos if eqn.primitive.name == "sin" else None
      >>> [float(x) for x in rewritten(jaxpr, choose)(0.0)]
      [2.0]
    """
    whole = closed(jaxpr)
    steps = [_step(eqn, choose, loop) for eqn in whole.jaxpr.eqns]
    if not any(steps):
        return None
    forgotten = _forgotten(whole.jaxpr)
    return lambda *inputs: _run(whole, steps, forgotten, inputs)


def bind(eqn: Eqn, inputs: Sequence[Any], params: dict | None = None) -> list:
    """Returns an equation's outputs for other inputs, and, if given, other parameters."""
    primitive = eqn.primitive
    params = eqn.params if params is None else params
    with eqn.ctx.manager:
        outputs = primitive.bind(*inputs, **primitive.get_bind_params(params))
    return list(outputs) if primitive.multiple_results else [outputs]


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


_INSTALLED = tuple(
    {*site.getsitepackages(), site.getusersitepackages(), sysconfig.get_path("stdlib")}
)


def _forgotten(jaxpr: core.Jaxpr) -> list[set]:
    """Returns the variables that are read no more after each equation."""
    last = {v: i for i, eqn in enumerate(jaxpr.eqns) for v in eqn.invars if not _literal(v)}
    last |= {v: len(jaxpr.eqns) for v in jaxpr.outvars if not _literal(v)}
    return [
        {v for v in (*eqn.invars, *eqn.outvars) if not _literal(v) and last.get(v, i) <= i}
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
        values = [read(v) for v in eqn.invars]
        env |= zip(eqn.outvars, step(*values) if step else bind(eqn, values), strict=True)
        for v in gone:
            env.pop(v, None)
    return [read(v) for v in jaxpr.outvars]


def _step(eqn: Eqn, choose: Choose, loop: bool) -> Callable[..., list] | None:
    """Returns what runs in place of an equation; None to bind it as it is."""
    if chosen := choose(eqn, loop):
        return lambda *inputs: _as_list(chosen(*inputs), eqn)
    loop = loop or eqn.primitive.name in LOOPS
    if eqn.primitive.name in _MAPS:
        inside = equations(eqn.params["jaxpr"], loop)
        return _mapped(eqn, choose, loop) if any(choose(*e) for e in inside) else None
    changed = {}
    for name, found in bodies(eqn).items():
        new = [_body(body, choose, loop) for body in found]
        if any(b is not a for a, b in zip(found, new, strict=True)):
            changed[name] = tuple(new) if isinstance(eqn.params[name], tuple | list) else new[0]
    if not changed:
        return None
    return lambda *inputs: bind(eqn, inputs, eqn.params | changed)


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
