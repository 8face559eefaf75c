"""The same training step plain and accelerated, on networks that were not written for it.

    python benchmarks/accelerate.py                      all of benchmarks/networks.py
    python benchmarks/accelerate.py --only LeNet-5       one of them
    python benchmarks/accelerate.py --quick              the seed CNN, one round

Needs `pip install -e '.[test]'`. Each network has a process of its own, in which both steps take
turns; the ratio is the median over rounds. Only the transform differs: no compiler options, and the
allocator's settings for both. Before the clock starts something else is compiled and run, and what
jax remembers of one side's tracing is forgotten before the other's. `difference` is the largest one
between the parameters after a step, relative to the largest parameter.

Where a step is several in a scan, the accelerated single one is called as often from Python, in the
same turns; the last lines say what part of that loop's speed the accelerated scan has.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

COLUMNS = ("plain img/s", "fast img/s", "ratio", "from", "to")
COLUMNS += ("compile s", "fast", "temp MiB", "fast", "difference")
TURN = 0.7  # seconds of each kind in a round, at least


def warm_up() -> None:
    """Compiles and runs a small convolution and its gradient, for no step to pay what is first."""
    import jax
    import jax.numpy as jnp
    from jax import lax

    def loss(k, x):
        layout = ("NHWC", "HWIO", "NHWC")
        y = lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=layout)
        return (y**2).mean()

    x, k = jnp.ones((8, 12, 12, 4)), jnp.ones((3, 3, 4, 4))
    jax.block_until_ready(jax.jit(jax.value_and_grad(loss))(k, x))


def compiled(function: Callable, state: Any, batch: Any) -> tuple[Any, float]:
    """Returns (executable, seconds that tracing and compiling took)."""
    import jax

    jax.clear_caches()  # else the second side finds the first one's traces
    started = time.perf_counter()
    made = jax.jit(function).lower(state, batch).compile()
    return made, time.perf_counter() - started


def loop(single: Callable, count: int) -> Callable:
    """Returns run() -> state: an accelerated step, compiled once and called from Python."""
    import jax

    import hcjax

    step, start, batch, _ = single()
    run, _ = compiled(hcjax.accelerate(step), start, batch)
    batches = [jax.tree.map(jax.numpy.copy, batch) for _ in range(count)]

    def steps():
        state = start
        for batch in batches:
            state = run(state, batch)
        return state

    return steps


def difference(plain: Any, fast: Any) -> float:
    """Returns the largest difference of two trees of results, relative to the largest number."""
    import jax
    import numpy as np

    pairs = [
        (np.asarray(a, np.float64), np.asarray(b, np.float64))
        for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(fast), strict=True)
        if jax.numpy.issubdtype(a.dtype, jax.numpy.floating)
    ]
    largest = max(np.abs(a).max(initial=0) for a, _ in pairs)
    return float(max(np.abs(a - b).max(initial=0) for a, b in pairs) / largest)


def in_rounds(runs: dict[str, Callable], rounds: int) -> dict[str, list[float]]:
    """Returns calls per second of each kind, round by round; the kinds take turns."""
    import jax

    rates: dict[str, list[float]] = {kind: [] for kind in runs}
    for _ in range(rounds):
        for kind, run in runs.items():
            done, started = 0, time.perf_counter()
            while time.perf_counter() - started < TURN:
                jax.block_until_ready(run())
                done += 1
            rates[kind].append(done / (time.perf_counter() - started))
    return rates


def ratios(rates: dict[str, list[float]], kind: str, to: str) -> dict[str, float]:
    """Returns median, least and most of one kind's rates by another's of the same round."""
    found = [a / b for a, b in zip(rates[kind], rates[to], strict=True)]
    return {"": statistics.median(found), "_min": min(found), "_max": max(found)}


def measure(name: str, rounds: int) -> dict:
    """Returns what both steps of a network came to, in this process."""
    from hcjax.devices import allocator

    allocator.keep_memory()
    import jax

    import hcjax
    from benchmarks import networks

    warm_up()
    step, state, batch, images = networks.STEPS[name]()
    found, runs = {"work": name, "images_per_call": images}, {}
    for kind, function in (("plain", step), ("fast", hcjax.accelerate(step))):
        made, seconds = compiled(function, state, batch)
        found[f"{kind}_compile_seconds"] = seconds
        found[f"{kind}_temp_bytes"] = made.memory_analysis().temp_size_in_bytes
        runs[kind] = partial(made, state, batch)
    if name in networks.LOOPS:
        runs["loop"] = loop(*networks.LOOPS[name])
    results = {kind: jax.block_until_ready(run()) for kind, run in runs.items()}
    found["difference"] = difference(results["plain"], results["fast"])
    rates = in_rounds(runs, rounds)
    for kind, done in rates.items():
        found[f"{kind}_images_per_second"] = images * statistics.median(done)
    found |= {f"ratio{k}": v for k, v in ratios(rates, "fast", "plain").items()}
    if "loop" in rates:
        found |= {f"scan_by_loop{k}": v for k, v in ratios(rates, "fast", "loop").items()}
    return found | {"versions": {"python": sys.version.split()[0], "jax": jax.__version__}}


def line(found: dict) -> str:
    """Returns a row of the table."""
    mib = 2**20
    cells = (
        f"{found['plain_images_per_second']:,.0f}",
        f"{found['fast_images_per_second']:,.0f}",
        f"{found['ratio']:.2f}",
        f"{found['ratio_min']:.2f}",
        f"{found['ratio_max']:.2f}",
        f"{found['plain_compile_seconds']:.1f}",
        f"{found['fast_compile_seconds']:.1f}",
        f"{found['plain_temp_bytes'] / mib:.0f}",
        f"{found['fast_temp_bytes'] / mib:.0f}",
        f"{found['difference']:.0e}",
    )
    return f"{found['work']:26s}" + "".join(f"{cell:>13s}" for cell in cells)


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="of benchmarks/networks.py")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="the seed CNN, one round")
    parser.add_argument("--json", type=Path, help="write a list of all rows there")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    rounds = 1 if options.quick else options.rounds
    if options.child:
        print(json.dumps(measure(options.child, rounds)))
        return 0
    from benchmarks import networks

    names = ["seed CNN"] if options.quick else options.only or list(networks.STEPS)
    if unknown := [name for name in names if name not in networks.STEPS]:
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(networks.STEPS)}")
    print(f"{'':26s}" + "".join(f"{name:>13s}" for name in COLUMNS), flush=True)
    rows = []
    for name in names:
        command = [sys.executable, __file__, "--child", name, "--rounds", str(rounds)]
        run = subprocess.run(command, capture_output=True, text=True)
        if run.returncode:
            said = run.stderr.strip().splitlines() or [f"exit code {run.returncode}"]
            print(f"{name:26s}  failed: {said[-1]}", flush=True)
            continue
        rows.append(json.loads(run.stdout.splitlines()[-1]))
        print(line(rows[-1]), flush=True)
    for row in rows:
        if "scan_by_loop" in row:
            print(
                f"{row['work']}: {row['scan_by_loop']:.2f} of the Python loop's speed "
                f"({row['scan_by_loop_min']:.2f} to {row['scan_by_loop_max']:.2f}; "
                f"loop {row['loop_images_per_second']:,.0f} img/s)"
            )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0 if len(rows) == len(names) else 1


if __name__ == "__main__":
    sys.exit(main())
