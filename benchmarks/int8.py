"""Inference in integers against float32, plain and accelerated, in one process, in turns.

    python benchmarks/int8.py                       ResNet-20, LeNet-5 and the seed CNN
    python benchmarks/int8.py --only ResNet-20      one of them
    python benchmarks/int8.py --quick               the seed CNN, one round

Random parameters and statistics, BatchNorm folded, calibrated on 128 random images. `plain` is
jax.jit(model.apply), `float32` the same through hcjax.tune, `int8` the integer network through
hcjax.tune, `symmetric` another without zero points. Ratios are medians over rounds, int8's images
per second by the other's: above 1 int8 (with zero points, as it is by default) is faster.
`jit / jax.jit`: of the integer network, weights an argument, images per second of hcjax.jit by
those of jax.jit. `equal`:
the logits of 8 images are those of the int64 NumPy interpreter of the integer program, bit for bit.
Needs `pip install -e '.[test]'`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hcjax.devices import allocator

allocator.keep_memory()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

import hcjax  # noqa: E402
from tests.graph import reference  # noqa: E402

WORKS = {
    "ResNet-20": ("resnet20", (32, 32, 3)),
    "LeNet-5": ("lenet5", (28, 28, 1)),
    "seed CNN": ("mnist_cnn", (28, 28, 1)),
}


def network(name: str, shape: tuple[int, ...]) -> hcjax.Model:
    """Returns a folded network of random parameters and random statistics."""
    made = hcjax.models.create(name, input_shape=shape)
    params, state = made.init(jax.random.key(0))
    key = iter(jax.random.split(jax.random.key(1), 1000))

    def shaken(x):  # as initialised some are 0 or 1, which would prove nothing
        return x * jax.random.uniform(next(key), x.shape, minval=0.5, maxval=1.5)

    params, state = jax.tree.map(shaken, (params, state))

    def logits(p, x):
        return made.apply(p, state, x, train=False, key=None)[0]

    return hcjax.fold(hcjax.trace(logits, params, jnp.zeros((1, *shape))))


def measure(name: str, *, batch: int, rounds: int, seconds: float) -> dict:
    """Returns images per second of each way and their ratios."""
    kind, shape = WORKS[name]
    model = network(kind, shape)
    images = np.random.default_rng(0).standard_normal((128, *shape)).astype(np.float32)
    ranges = hcjax.calibrate(model, images)
    small, plain = hcjax.int8(model, ranges), hcjax.int8(model, ranges, zero_points=False)
    found = np.asarray(small.apply(small.params, images[:8]))
    equal = bool((found == reference.logits(small, images[:8])).all())
    x = jnp.asarray(images[:batch])
    runs = {
        "plain": jax.jit(lambda x: model.apply(model.params, x)),
        "float32": hcjax.tune(lambda x: model.apply(model.params, x), x),
        "int8": hcjax.tune(lambda x: small.apply(small.params, x), x),
        "symmetric": hcjax.tune(lambda x: plain.apply(plain.params, x), x),
    }
    whole = {"hcjax.jit": hcjax.jit(small.apply), "jax.jit": jax.jit(small.apply)}
    runs |= {kind: partial(run, small.params) for kind, run in whole.items()}
    equal = equal and bool((np.asarray(runs["hcjax.jit"](x))[:8] == found[:batch]).all())
    equal = equal and bool((np.asarray(runs["int8"](x))[:8] == found[:batch]).all())
    rates: dict[str, list[float]] = {kind: [] for kind in runs}
    for _ in range(rounds):
        for kind, run in runs.items():
            jax.block_until_ready(run(x))
            done, started = 0, time.perf_counter()
            while time.perf_counter() - started < seconds:
                jax.block_until_ready(run(x))
                done += 1
            rates[kind].append(done * batch / (time.perf_counter() - started))

    def ratio(kind, of="int8"):
        pairs = zip(rates[of], rates[kind], strict=True)
        return statistics.median(a / b for a, b in pairs)

    return {
        "work": name,
        "batch": batch,
        **{f"{kind}_images_per_second": statistics.median(r) for kind, r in rates.items()},
        "to_plain": ratio("plain"),
        "to_float32": ratio("float32"),
        "to_symmetric": ratio("symmetric"),
        "jit_to_jax_jit": ratio("jax.jit", of="hcjax.jit"),
        "equal": equal,
        "left_in_float": list(small.floats),
    }


def main() -> int:
    """Returns the exit code: 1 if a network's integers are not those of the interpreter."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=WORKS, metavar="NAME", help=", ".join(WORKS))
    parser.add_argument("--batch", nargs="+", type=int, default=[128, 1])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.6, help="of each way in a round")
    parser.add_argument("--quick", action="store_true", help="the seed CNN, one short round")
    parser.add_argument("--json", type=Path, help="write a list of all rows there")
    options = parser.parse_args()
    if options.quick:
        options.only, options.rounds, options.seconds = ["seed CNN"], 1, 0.05
    columns = (
        "batch",
        "plain img/s",
        "float32",
        "int8",
        "to plain",
        "to float32",
        "symmetric",
        "jit / jax.jit",
        "equal",
    )
    print(f"{'':12s}" + "".join(f"{c:>14s}" for c in columns), flush=True)
    rows = []
    for name in options.only or WORKS:
        for batch in options.batch:
            row = measure(name, batch=batch, rounds=options.rounds, seconds=options.seconds)
            rows.append(row)
            cells = [
                f"{batch}",
                *(f"{row[f'{k}_images_per_second']:,.0f}" for k in ("plain", "float32", "int8")),
                f"{row['to_plain']:.2f}",
                f"{row['to_float32']:.2f}",
                f"{row['to_symmetric']:.2f}",
                f"{row['jit_to_jax_jit']:.2f}",
                "yes" if row["equal"] else "NO",
            ]
            print(f"{name:12s}" + "".join(f"{c:>14s}" for c in cells), flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0 if all(row["equal"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
