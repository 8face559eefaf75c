"""Plans: compile a training and an evaluation step for TPUs that are not attached.

In: the pure steps, the shapes of their arguments, and a topology's name. Out: a plan, a dict of
plain numbers: work, memory, communication and time bounds per chip, from Google's own compiler for
that chip. The compiled steps are the ones that run: `parallel.train(step)`, over the topology's
devices.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax

from hcjax import trees
from hcjax.devices import libtpu
from hcjax.errors import ConfigError, PlatformError
from hcjax.train import parallel
from hcjax.train.plan import bounds, chips, hlo
from hcjax.train.plan.bounds import text
from hcjax.train.plan.progress import Progress

__all__ = ["compile_step", "plan", "text"]

SEARCH = 2  # compilations, about, that find the largest batch
# how libtpu says what a program needs: "... required for HLO temporaries (54.22G) exceeds ..."
_NEEDED = re.compile(r"\(([\d.]+)([KMGTP]?)\) exceeds")


def plan(
    train_step: Callable,
    eval_step: Callable | None,
    state: Any,
    train_batch: dict,
    eval_batch: dict | None = None,
    *,
    topology: str,
    largest: bool = True,
    scaling: bool = True,
    quick: bool = False,
    cache: str | os.PathLike | None = None,
    say: Callable[[str], None] | None = None,
) -> dict:
    """Compiles the steps for a TPU slice and returns their cost per chip; `text` formats it.

    step time >= max(FLOPs / peak, HBM bytes / HBM bandwidth) + time to all-reduce

    Args:
      train_step: from `make_train_step(..., devices=parallel.DEVICES)`.
      eval_step: from `make_eval_step(..., devices=parallel.DEVICES)`; None for none.
      state: TrainState; only shapes and dtypes of its leaves are used.
      train_batch: dict of arrays or shapes [N, ...], a global batch: N is divided over the chips.
      eval_batch: the same for `eval_step`.
      topology: `v5e:2x4`, `v6e:16x16`, `v5p:4x4x4`, ...
      largest: also find the largest batch that fits, by one to five `quick` compilations.
      scaling: also compile for one host, for the first row of the table of weak scaling.
      quick: compile with less search (jax's optimization level O1), in half the time or, where
        batches are large, a tenth: the same communication, but a program that may be slower and use
        more memory.
      cache: folder of cached compilation results, by the program's hash; None for none.
      say: called with one line of text before and after each compilation; None prints to stderr.

    Returns:
      A dict that `json.dump` accepts. `train` and `eval` hold, per chip and step: flops,
      bytes_accessed (the compiler's count, operands in on-chip memory included), hbm_bytes (those
      that cross to HBM), memory (bytes in HBM by purpose), collectives, all_reduces,
      all_reduce_bytes, seconds (compute, memory, all_reduce and their bound) and
      images_per_second (over all chips, at that bound). largest_batch and scaling are None where
      they were not asked for.

    Raises:
      ConfigError: if the topology is unknown, its chips do not divide the batch, or the batch
        does not fit.
      PlatformError: if libtpu is not installed or cannot be loaded.

    Note:
      Nothing is executed. A bound is not a forecast: real steps take longer. Jax's persistent
      compilation cache cannot hold programs for devices that are not there; `cache` can.
    """
    say = say or (lambda line: print(line, file=sys.stderr, flush=True))
    where = chips.parse(topology)
    global_batch = _size(train_batch)
    if global_batch % where.chips:
        raise ConfigError(
            f"plan: a batch of {global_batch} examples cannot be divided over the {where.chips} "
            f"chips of '{topology}'; choose a batch size that is a multiple of {where.chips}"
        )
    versions = {"jax": jax.__version__, "libtpu": libtpu.version()}
    several = scaling and where.hosts > 1
    programs = 1 + (eval_step is not None) + several + SEARCH * largest
    options = {"cache": cache, "progress": Progress(programs, say)}
    per_chip = global_batch // where.chips

    def train(where: chips.Slice, per_chip: int, *, quick: bool = quick) -> dict:
        return compile_step(
            train_step, state, train_batch, where=where, per_chip=per_chip, quick=quick, **options
        )

    with libtpu.alone(say):
        here = train(where, per_chip)
        evaluation = None
        if eval_step is not None:
            rows = -(-_size(eval_batch) // where.chips)  # padded to whole chips
            evaluation = compile_step(
                eval_step,
                state,
                eval_batch,
                where=where,
                per_chip=rows,
                evaluate=True,
                quick=quick,
                **options,
            )
        rows = bounds.scaling(here, where, per_chip, train) if scaling else None
        most = None
        if largest:
            most = bounds.largest_batch(here, where, per_chip, partial(train, quick=True))
    return {
        "topology": where.name,
        "machine": where.machine,
        "chips": where.chips,
        "hosts": where.hosts,
        "chip": where.chip._asdict(),
        "batch_size": global_batch,
        "batch_per_chip": per_chip,
        "versions": versions,
        "quick": quick,
        "train": here,
        "eval": evaluation,
        "largest_batch": most,
        "scaling": rows,
    }


def compile_step(
    step: Callable,
    state: Any,
    batch: dict,
    *,
    where: chips.Slice,
    per_chip: int,
    evaluate: bool = False,
    quick: bool = False,
    cache: str | os.PathLike | None = None,
    progress: Progress | None = None,
) -> dict:
    """Compiles one step for a slice and returns its entry of the plan.

    Args:
      step: a pure training step, or evaluation step if `evaluate`.
      state: TrainState, of arrays or shapes.
      batch: dict of arrays or shapes [N, ...]; their first axis is replaced.
      where: the slice.
      per_chip: examples per chip.
      evaluate: which of the two forms `step` has.
      quick, cache: see `plan`.
      progress: told of the compilation; None for nobody.

    Raises:
      TooLarge: if the program does not fit in HBM; a ConfigError.
      PlatformError: if libtpu cannot compile it.
    """
    devices = topology_devices(where)
    per_device = per_chip * where.chips // len(devices)
    if per_device * len(devices) != per_chip * where.chips:
        raise ConfigError(
            f"plan: {where.name} is compiled for {len(devices)} TensorCores, two a chip; choose "
            f"a batch size that is a multiple of {len(devices)}"
        )
    state = _shapes(state)
    batch = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((len(devices), per_device, *x.shape[1:]), x.dtype), batch
    )
    if evaluate:
        args = (*state.averaged, batch)
        lowered = parallel.evaluate(step, devices=devices).lower(*args)
    else:
        key = jax.eval_shape(lambda: jax.random.key(0))
        lowered = parallel.train(step, devices=devices).lower(state, batch, key)
    kind, search = ("evaluation" if evaluate else "training"), (", less search" if quick else "")
    what = f"the {kind} step for {where.name} with {per_chip} examples per chip"
    target = f"{where.name} {where.host}"
    progress = progress or Progress(1, lambda line: None)
    with progress.compiling(what + search):
        try:
            facts = _cached(lowered, target, what, quick=quick, cache=cache)
        except bounds.TooLarge as error:
            if error.needed is not None:  # of one device, one or two of which are a chip
                error.needed *= len(devices) // where.chips
            raise
    held = {"parameters": state.params, "statistics": state.state}
    if evaluate:
        held = dict(zip(held, state.averaged, strict=True))
    else:
        held |= {"optimizer": state.opt_state, "average": state.ema}
    held_bytes = {name: trees.size_bytes(tree) for name, tree in held.items()}
    return bounds.entry(facts, held_bytes, where, per_chip=per_chip, devices=len(devices))


def topology_devices(where: chips.Slice) -> list:
    """Returns devices that can be compiled for, though nothing can run on them."""
    libtpu.version()
    from jax.experimental import topologies

    host = (*where.host, 1)[:3]
    try:
        with libtpu.quiet():
            description = topologies.get_topology_desc(
                platform="tpu", topology_name=where.name, chips_per_host_bounds=host
            )
    except jax.errors.JaxRuntimeError as error:
        if "INVALID_ARGUMENT" in str(error):
            raise ConfigError(
                f"plan: the TPU compiler refuses '{where.name}': {error}. "
                f"Examples of what it takes: {chips.EXAMPLES}"
            ) from error
        raise PlatformError(f"plan: libtpu cannot be loaded: {error}") from error
    return description.devices


def _cached(lowered: Any, target: str, what: str, *, quick: bool, cache: Any) -> dict:
    """Returns `_facts` of the compiled program, from the cache if it is there."""
    if cache is None:
        return _facts(lowered, what, quick=quick)
    readers = b"".join(Path(module).read_bytes() for module in (__file__, hlo.__file__))
    key = f"{jax.__version__} {libtpu.version()} {target} {quick} {lowered.as_text()}"
    name = hashlib.sha256(readers + key.encode()).hexdigest()
    path = Path(cache) / f"tpu-plan-{name[:32]}.json"
    if path.exists():
        return json.loads(path.read_text())
    facts = _facts(lowered, what, quick=quick)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps(facts))
    partial.replace(path)  # whole or not at all
    return facts


def _facts(lowered: Any, what: str, *, quick: bool) -> dict:
    """Compiles a program and reads the compiler's facts, per device."""
    # Jax would write the program into its cache and then fail, with a warning, to read it back.
    settings = {"jax_persistent_cache_min_compile_time_secs": 1e9}
    if quick:
        settings["jax_optimization_level"] = "O1"
    before = {name: getattr(jax.config, name) for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    start = time.perf_counter()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        says = str(error).splitlines()[0]
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise PlatformError(
                f"plan: libtpu {libtpu.version()} cannot compile {what}: {says}. Another slice or "
                f"batch size may do"
            ) from error
        raise bounds.TooLarge(
            f"plan: {what} does not fit in HBM; choose a smaller batch or more chips. "
            f"The compiler says: {says}",
            needed=_needed(str(error)),
        ) from error
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
    return {"compile_seconds": round(time.perf_counter() - start, 2), **hlo.facts(compiled)}


def _needed(message: str) -> float | None:
    """Returns the bytes that a program needs by the message that refuses it; None if it is mute."""
    match = _NEEDED.search(message)
    if not match:
        return None
    return float(match[1]) * 1024 ** ("KMGTP".index(match[2]) + 1 if match[2] else 0)


def _shapes(tree: Any) -> Any:
    """Returns the pytree with every array replaced by its shape and dtype."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def _size(batch: dict) -> int:
    """Returns N of a batch with leaves [N, ...]."""
    return jax.tree.leaves(batch)[0].shape[0]
