"""How long a whole network takes through the chain: Haiku's ResNet-18, 64 x 64 images.

    python benchmarks/chain.py            under a minute

Parameters and statistics are random (as initialised its last layer is zero, which would prove
nothing). Prints the seconds of trace, fold, calibrate and int8, each with what it compiles; how far
the folded logits are from Haiku's own, and the integer network's bits from the NumPy interpreter's.
The exit code is 1 if trace, fold and int8 take more than 10 s together, or logits differ by 1e-4.
Needs `pip install -e '.[test]'`.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import haiku as hk
import jax
import numpy as np

import hcjax
from tests.graph import networks, reference


def main() -> int:
    """Returns the exit code."""
    apply, params, _ = networks.haiku(lambda: hk.nets.ResNet18(10), size=64)
    images = np.random.default_rng(0).standard_normal((8, 64, 64, 3)).astype(np.float32)
    seconds = {}

    def timed(name, function, *args):
        started = time.perf_counter()
        found = jax.block_until_ready(function(*args))
        seconds[name] = time.perf_counter() - started
        print(f"{name:10s}{seconds[name]:7.2f} s", flush=True)
        return found

    model = timed("trace", hcjax.trace, apply, params, images[:1])
    model = timed("fold", hcjax.fold, model)
    ranges = timed("calibrate", hcjax.calibrate, model, images)
    small = timed("int8", hcjax.int8, model, ranges)
    ways = ((apply, params), (model.apply, model.params))
    theirs, ours = (np.asarray(jax.jit(f)(p, images), np.float64) for f, p in ways)
    difference = np.abs(ours - theirs).max() / np.abs(theirs).max()
    found = np.asarray(jax.jit(small.apply)(small.params, images))
    equal = np.array_equal(found, reference.logits(small, images))
    total = seconds["trace"] + seconds["fold"] + seconds["int8"]
    print(f"trace, fold and int8 {total:.2f} s; folded logits {difference:.1e} of the largest off")
    print(f"{len(small.floats)} ops in float; integers equal the NumPy interpreter's: {equal}")
    return int(total > 10 or difference > 1e-4 or not equal)


if __name__ == "__main__":
    sys.exit(main())
