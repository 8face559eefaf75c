"""`accelerate`: rewrites a function so that XLA compiles it well.

In: any function of arrays, e.g. a whole training step after `jax.grad`. Out: a function of the same
values. Patterns that the platform's compiler is slow at are replaced in the jaxpr, by the table in
`hcjax.accelerate.rules`. Models stay plain.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial, wraps
from typing import Any

import jax
import numpy as np

from hcjax.accelerate import groups
from hcjax.accelerate.rules import GROUPED, RULES, here
from hcjax.core import walker

Rule = Callable[[walker.Eqn, walker.Place], Callable | walker.Replacement | str]
Table = Mapping[str, Sequence[Rule]]

_MAX_CALLS = 64  # values of static arguments that are cached


def accelerate(fn: Callable, *, platform: str | None = None) -> Callable:
    """Rewrites the patterns of `fn` that a platform's compiler is slow at.

    Values, derivatives and effects are those of `fn`, up to rounding of sums in another order; ties
    of a max-pool go to the same element. Custom derivative rules, remat, donation and shardings
    stay. If the platform has no table, `fn` itself is called.

    Args:
      fn: a function of pytrees; jitted, mapped, differentiated or not. Leaves that are not arrays
        (Python numbers, strings, None, functions) are static: each value is traced again, and the
        last 64 traces are cached; pass changing numbers as arrays. `fn` must be traceable by
        `jax.jit`, and must not change arguments in place.
      platform: "cpu", "gpu" or "tpu", the target of the compilation; None for the default backend
        at the time of the call, and with the native kernels of this process, if it has them.
        `jax.export` refuses those: name the platform of what is exported.

    Returns:
      A function of the same arguments. It can be jitted, mapped and differentiated. Differentiate
      before accelerating, so that the derivative's own patterns are replaced too. It is traced
      again for new shapes only.

    Raises:
      TypeError: if `fn` changes an object among its arguments in place, as steps of NNX modules do.

    Note:
      Apply `jax.jit` to the result, or pass a jitted `fn`: without it the result runs equation by
      equation, as `fn` would.

    Example:
      >>> import jax.numpy as jnp
      >>> from jax import lax
      >>> def pool(x):
      ...   return lax.reduce_window(x, -jnp.inf, lax.max, (2, 2), (2, 2), "VALID")
      >>> accelerate(pool, platform="cpu")(jnp.arange(16.0).reshape(4, 4)).tolist()
      [[5.0, 7.0], [13.0, 15.0]]
    """
    cached = lru_cache(maxsize=_MAX_CALLS)(partial(_Traced, fn))

    @wraps(fn)
    def accelerated(*args, **kwargs):
        name = platform or here()
        if not RULES.get(name):
            return fn(*args, **kwargs)
        dynamic, static, tree = _split(args, kwargs)
        try:
            traced = cached(tree, static)
        except TypeError:  # a static leaf that cannot be hashed
            traced = _Traced(fn, tree, static)
        run, structure = traced.rewritten(dynamic, name)
        return jax.tree.unflatten(structure, run(*dynamic)) if run else fn(*args, **kwargs)

    return accelerated


def explain(fn: Callable, *args: Any, platform: str | None = None, **kwargs: Any) -> None:
    """Prints, line by line, the rewrites of `accelerate`, and why others do not apply.

    Args:
      fn: the function to accelerate.
      *args, **kwargs: its arguments; only their shapes and dtypes matter.
      platform: see `accelerate`.

    Example:
      >>> import jax.numpy as jnp
      >>> explain(jnp.sin, 1.0, platform="tpu")
      tpu: nothing is rewritten on this platform
      >>> explain(jnp.sin, jnp.ones(2), platform="cpu")
      cpu: nothing in this function has a rule
    """
    platform = platform or here()
    table = RULES.get(platform)
    if not table:
        print(f"{platform}: nothing is rewritten on this platform")
        return
    rows = Counter(explanation(fn, *args, table=table, **kwargs))
    if platform in GROUPED:
        rows.update(_grouped_rows(fn, args, kwargs, table))
    if not rows:
        print(f"{platform}: nothing in this function has a rule")
    for (line, what, verdict), count in rows.items():
        times = f"  x {count}" if count > 1 else ""
        print(f"{line or '(unknown line)'}  {what}{times}\n    {verdict}")


def explanation(
    fn: Callable, *args: Any, table: Table, **kwargs: Any
) -> list[tuple[str, str, str]]:
    """Returns (source line, equation, verdict) of each equation that has rules.

    Args:
      fn, *args, **kwargs: see `explain`.
      table: primitive name -> rules, e.g. `RULES["cpu"]`.
    """
    dynamic, static, tree = _split(args, kwargs)
    jaxpr = jax.make_jaxpr(_Traced(fn, tree, static).flat)(*dynamic)
    rows = []
    for eqn, place in walker.equations(jaxpr):
        tried = _tried(table, eqn, place)
        if all(answer == "" for _, answer in tried):
            continue
        rule, answer = tried[-1]
        if not isinstance(answer, str):
            verdicts = [f"{rule.__name__}: {inspect.getdoc(rule).splitlines()[0]}"]
        else:
            verdicts = [f"{rule.__name__} does not apply: {reason}" for rule, reason in tried]
        shapes = " * ".join(v.aval.str_short(short_dtypes=True) for v in eqn.invars)
        shapes += f" -> {eqn.outvars[0].aval.str_short(short_dtypes=True)}"
        what = f"{eqn.primitive.name} {shapes}{' in a loop' if place.loop else ''}"
        rows.append((walker.source_line(eqn), what, "\n    ".join(verdicts)))
    return rows


def _grouped_rows(fn: Callable, args: tuple, kwargs: dict, table: Table) -> list:
    """Returns the rows of `explain` for the groups of a function, once it is rewritten."""
    dynamic, static, tree = _split(args, kwargs)
    jaxpr = jax.make_jaxpr(_Traced(fn, tree, static).flat)(*dynamic)
    return groups.described(_by_rules(jaxpr, dynamic, table)[1])


def chooser(table: Table) -> walker.Chooser:
    """Returns the chooser that takes, for each equation, the first rule that applies."""

    def choose(eqn, place):
        tried = _tried(table, eqn, place)
        return tried[-1][1] if tried and not isinstance(tried[-1][1], str) else None

    return choose


def _tried(table: Table, eqn: walker.Eqn, place: walker.Place) -> list[tuple[Rule, Any]]:
    """Tries rules in order; returns (rule, answer) pairs up to the first that applies."""
    tried = []
    for rule in table.get(eqn.primitive.name, ()):
        tried.append((rule, rule(eqn, place)))
        if not isinstance(tried[-1][1], str):
            break
    return tried


def _split(args: tuple, kwargs: dict) -> tuple[list, tuple, Any]:
    """Returns (array leaves, for each leaf None or its type and static value, tree) of a call."""
    leaves, tree = jax.tree.flatten((args, kwargs))
    static = tuple(None if _is_array(x) else (type(x), x) for x in leaves)
    return [x for x in leaves if _is_array(x)], static, tree


class _Traced:
    """A function with its static leaves filled in, and its cached rewrites.

    jax's own cache of traces identifies equal calls: types, named axes, configuration.
    """

    def __init__(self, fn: Callable, tree: Any, static: tuple):
        def flat(*dynamic):
            arrays = iter(dynamic)
            leaves = [next(arrays) if s is None else s[1] for s in static]
            args, kwargs = jax.tree.unflatten(tree, leaves)
            objects = [(x, jax.tree.leaves(x)) for x in _objects((args, kwargs))]
            result = fn(*args, **kwargs)
            for x, before in objects:
                _check_unchanged(x, before)
            return result

        self.flat, self._jitted = flat, jax.jit(flat)
        self._rewrites: dict[tuple[int, str], tuple] = {}

    def rewritten(self, dynamic: list, platform: str) -> tuple[Callable | None, Any]:
        """Returns the rewritten function of the array leaves (or None) and its result's tree."""
        trace = self._jitted.trace(*dynamic)
        jaxpr, structure = trace.jaxpr, jax.tree.structure(trace.out_info)
        if len(jaxpr.in_avals) != len(dynamic):  # it closes over values of an enclosing trace
            jaxpr = jax.make_jaxpr(self.flat)(*dynamic)
            return _rewritten(jaxpr, dynamic, platform), structure
        key = id(jaxpr), platform
        if key not in self._rewrites:
            # a reference to the jaxpr keeps its id unique
            self._rewrites[key] = (_rewritten(jaxpr, dynamic, platform), jaxpr)
        return self._rewrites[key][0], structure


def _rewritten(jaxpr: Any, dynamic: list, platform: str) -> Callable | None:
    """Returns the function of a jaxpr with its patterns replaced, then its groups."""
    if platform not in GROUPED:
        return walker.rewrite(jaxpr, chooser(RULES[platform]))
    run, jaxpr = _by_rules(jaxpr, dynamic, RULES[platform])
    return groups.grouped(jaxpr) or run


def _by_rules(jaxpr: Any, dynamic: list, table: Table) -> tuple[Callable | None, Any]:
    """Returns the function of a jaxpr with its patterns replaced (or None), and its own jaxpr."""
    run = walker.rewrite(jaxpr, chooser(table))
    return run, jax.make_jaxpr(run)(*dynamic) if run else jaxpr


def _objects(tree: Any) -> list:
    """Lists the nodes that are neither plain containers nor mappings, e.g. NNX modules."""
    nodes = jax.tree.leaves(tree, is_leaf=lambda x: not isinstance(x, dict | list | tuple))
    return [x for x in nodes if not isinstance(x, Mapping)]


def _check_unchanged(node: Any, before: list) -> None:
    """Raises TypeError if an object among the arguments was changed in place, as NNX does."""
    after = jax.tree.leaves(node)
    if len(after) != len(before) or any(a is not b for a, b in zip(after, before, strict=True)):
        raise TypeError(
            f"accelerate: the function changes its argument {type(node).__name__} in place, which "
            "would be lost; expected a function that returns what it changes (NNX: nnx.split "
            "before the call, nnx.merge inside, and return the state)"
        )


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray | np.generic)
