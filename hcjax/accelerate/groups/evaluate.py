"""Runs a flat program with kernels in place of the steps that they compute.

In: a flat program and its kernels. Out: a function of its inputs. A kernel has the derivatives of
the steps that it stands for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax

from hcjax.accelerate.groups.emit import HEAD, Loop, emit
from hcjax.accelerate.groups.flat import Flat, Step
from hcjax.accelerate.groups.kernels import Kernel
from hcjax.core import walker
from hcjax.core.walker import is_literal
from hcjax.native import calls, loops

_NEXT = 2.0**-20


def function(program: Flat, kernels: Sequence[Kernel]) -> Callable[..., list]:
    """Returns the function of a program that calls kernels.

    Raises:
      BuildError: if the kernels cannot be built here.
    """
    written = [emit(k) for k in kernels]
    texts = {text: f"k{i}" for i, text in enumerate(dict.fromkeys(w.text for w in written))}
    source = HEAD + "\n".join(text.replace("@", name, 1) for text, name in texts.items())
    names = loops.compiled(source, list(texts.values()))
    made_by = {v: step for step in program.steps for v in step.writes}
    items: list[Step] = list(program.steps)
    for k, loop in zip(kernels, written, strict=True):
        run = _call(k, loop, names[texts[loop.text]], made_by)
        items.append(_Item(run, tuple(k.reads), tuple(t.variable for t in k.targets)))
    return _Run(program, _in_order(program, items))


class _Item(Step):
    """A kernel as a step; its `eqn` is a function of the variables that it reads."""


class _Run:
    """The function: evaluates steps in order, and drops what nothing reads any more."""

    def __init__(self, program: Flat, steps: list[Step]):
        self.program, self.steps = program, steps
        last = {v: i for i, step in enumerate(steps) for v in step.reads if not is_literal(v)}
        last |= {v: len(steps) for v in program.results if not is_literal(v)}
        self.dead = [
            {v for v in (*(r for r in s.reads if not is_literal(r)), *s.writes)
             if last.get(v, i) <= i} for i, s in enumerate(steps)
        ]  # fmt: skip

    def __call__(self, *inputs: Any) -> list:
        env = self.program.constants | dict(zip(self.program.inputs, inputs, strict=True))
        for step, dead in zip(self.steps, self.dead, strict=True):
            values = [v.val if is_literal(v) else env[v] for v in step.reads]
            made = step.eqn(*values) if isinstance(step, _Item) else walker.run(step.eqn, values)
            env |= zip(step.writes, made, strict=True)
            for v in dead:
                env.pop(v, None)
        return [v.val if is_literal(v) else env[v] for v in self.program.results]


def _in_order(program: Flat, items: list[Step]) -> list[Step]:
    """Returns the steps and kernels that are needed, each after what it reads.

    They stay in the program's order but for steps that wait for a kernel.
    """
    maker = {v: i for i, item in enumerate(items) for v in item.writes}  # kernels come last
    needed = [maker[v] for v in program.results if not is_literal(v) and v in maker]
    needed += [i for i, s in enumerate(program.steps) if s.eqn.effects]
    moments: dict[int, float] = {}
    stack = [(i, False) for i in needed]
    while stack:
        i, done = stack.pop()
        if i in moments:
            continue
        sources = [maker[v] for v in items[i].reads if not is_literal(v) and v in maker]
        if not done:
            stack.append((i, True))
            stack.extend((s, False) for s in sources if s not in moments)
            continue
        own = -1.0 if isinstance(items[i], _Item) else float(i)
        moments[i] = max([own, *(moments[s] + _NEXT for s in sources)])
    return [items[i] for i in sorted(moments, key=moments.__getitem__)]


def _call(k: Kernel, loop: Loop, name: str, made_by: dict) -> Callable[..., list]:
    """Returns a kernel as a function of what it reads; its results are those of its targets."""
    shapes = [jax.ShapeDtypeStruct(k.shape, v.kind) for v in loop.arrays]
    shapes += [jax.ShapeDtypeStruct(k.shape[-1:], "float32") for _ in loop.sums]
    places = [
        len(loop.arrays) + loop.sums.index(t.value) if t.total else loop.arrays.index(t.value)
        for t in k.targets
    ]
    how = {"rows": loop.rows, "channels": loop.channels, "sums": len(loop.sums)}
    plain = _plain(k, made_by)

    def fast(*args):
        found = loops.call(name, shapes, *args, **how)
        return [found[i] for i in places]

    return calls.differentiable(fast, plain)


def _plain(k: Kernel, made_by: dict) -> Callable[..., list]:
    """Returns what a kernel computes as the steps that it stands for."""
    targets = [t.variable for t in k.targets]
    signs = {value.variable: clip for value, clip in k.signs.items()}
    steps: dict[int, Step] = {}
    seen, stack = set(k.reads), [(v, False) for v in reversed(targets)]
    while stack:
        v, done = stack.pop()
        if done:
            steps.setdefault(id(made_by[v]), made_by[v])
        if done or v in seen:
            continue
        seen.add(v)
        stack.append((v, True))
        reads = () if v in signs else made_by[v].reads
        stack.extend((r, False) for r in reads if not is_literal(r))

    def plain(*args):
        env = dict(zip(k.reads, args, strict=True))
        for step in steps.values():
            (v,) = step.writes
            if v in signs:
                env[v] = env[signs[v]] > 0
                continue
            values = [r.val if is_literal(r) else env[r] for r in step.reads]
            env[v] = walker.run(step.eqn, values)[0]
        return [env[v] for v in targets]

    return plain
