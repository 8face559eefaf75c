"""The same training step plain and accelerated, on networks that were not written for it.

    python benchmarks/accelerate.py                      all of benchmarks/networks.py
    python benchmarks/accelerate.py --only LeNet-5       one of them
    python benchmarks/accelerate.py --quick              the seed CNN, one round

Needs `pip install -e '.[test]'`. Each network has a process of its own, in which both steps take
turns; the ratio is the median over rounds. Only the transform differs: no compiler options, and the
allocator's settings for both. `difference` is the largest one between the parameters after a step,
relative to the largest parameter.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

COLUMNS = ("plain img/s", "fast img/s", "ratio", "from", "to")
COLUMNS += ("compile s", "fast", "temp MiB", "fast", "difference")


def measure(name: str, rounds: int) -> dict:
    """Returns what both steps of a network came to, in this process."""
    from hcjax import allocator

    allocator.keep_memory()
    import jax
    import numpy as np

    import hcjax
    from benchmarks import networks

    step, state, batch, images = networks.STEPS[name]()
    found, runs, results = {"work": name, "images_per_call": images}, {}, {}
    for kind, function in (("plain", step), ("fast", hcjax.accelerate(step))):
        started = time.perf_counter()
        compiled = jax.jit(function).lower(state, batch).compile()
        found[f"{kind}_compile_seconds"] = time.perf_counter() - started
        found[f"{kind}_temp_bytes"] = compiled.memory_analysis().temp_size_in_bytes
        runs[kind] = compiled
        results[kind] = jax.tree.leaves(jax.block_until_ready(compiled(state, batch)))
    pairs = [
        (np.asarray(a, np.float64), np.asarray(b, np.float64))
        for a, b in zip(results["plain"], results["fast"], strict=True)
        if jax.numpy.issubdtype(a.dtype, jax.numpy.floating)
    ]
    largest = max(np.abs(a).max(initial=0) for a, _ in pairs)
    found["difference"] = float(max(np.abs(a - b).max(initial=0) for a, b in pairs) / largest)
    rates: dict[str, list[float]] = {"plain": [], "fast": []}
    for _ in range(rounds):
        for kind, run in runs.items():
            done, started = 0, time.perf_counter()
            while time.perf_counter() - started < 0.7:
                jax.block_until_ready(run(state, batch))
                done += 1
            rates[kind].append(done * images / (time.perf_counter() - started))
    ratios = [b / a for a, b in zip(rates["plain"], rates["fast"], strict=True)]
    return found | {
        "plain_images_per_second": statistics.median(rates["plain"]),
        "fast_images_per_second": statistics.median(rates["fast"]),
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "versions": {"python": sys.version.split()[0], "jax": jax.__version__},
    }


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
            print(f"{name:26s}  failed: {run.stderr.strip().splitlines()[-1]}", flush=True)
            continue
        rows.append(json.loads(run.stdout.splitlines()[-1]))
        print(line(rows[-1]), flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0 if len(rows) == len(names) else 1


if __name__ == "__main__":
    sys.exit(main())
