"""How fast StableHLO files run on this machine, beside the fastest way that `hcjax.tune` finds.

    python benchmarks/stablehlo.py [--networks=lenet5,resnet20] [--batches=1,64] [--seconds=2]

Native kernels are off, as they are in a file; all ways take turns. Weights are random.
"""

from __future__ import annotations

import argparse
import os
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

os.environ["HCJAX_NATIVE"] = "0"  # before hcjax is imported

import jax
import numpy as np

import hcjax
from hcjax.accelerate.compiler import in_turns
from hcjax.core import text

SHAPE = (28, 28, 1)


def models(name: str) -> dict[str, hcjax.Model]:
    """Returns a network in float and in integers."""
    network = hcjax.models.create(name, input_shape=SHAPE)
    params, state = network.init(jax.random.key(0))
    images = np.random.default_rng(0).normal(size=(64, *SHAPE)).astype(np.float32)
    apply = hcjax.inference(network.apply, state)
    model = hcjax.fold(hcjax.trace(apply, params, images[:1]))
    return {"float": model, "int8": hcjax.int8(model, hcjax.calibrate(model, images))}


def row(model: hcjax.Model, batch: int, seconds: float) -> list[float]:
    """Returns milliseconds of a call: of any size, of this size, of the fastest way here.

    What is compared closest takes turns with itself alone: a call after a slow one is slower.
    """
    images = np.random.default_rng(1).normal(size=(batch, *SHAPE)).astype(np.float32)
    calls = []
    for size in (None, batch):
        program = jax.export.deserialize(bytearray(hcjax.export.stablehlo(model, batch=size)))
        calls.append(partial(jax.jit(program.call), images))
    calls.append(partial(hcjax.tune(partial(model.apply, model.params), images), images))
    for call in calls:
        call()
    whole, static, fastest = calls
    _, _, *pair = in_turns([static, fastest, static, fastest], seconds)
    return [1e3 * t for t in (*in_turns([whole], seconds), *pair)]


def main(argv: list[str] | None = None) -> int:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--networks", default="lenet5,resnet20")
    parser.add_argument("--batches", default="1,64")
    parser.add_argument("--seconds", type=float, default=2.0)
    options = parser.parse_args(argv)
    rows = []
    for name in options.networks.split(","):
        for form, model in models(name).items():
            for batch in map(int, options.batches.split(",")):
                whole, static, fastest = row(model, batch, options.seconds)
                times = [f"{t:.3g} ms" for t in (whole, static, fastest)]
                ratios = [f"{fastest / t:.2f}" for t in (whole, static)]
                rows.append([f"{name}, {form}", str(batch), *times, *ratios])
    head = ["network", "batch", "any size", "one size", "tune", "any ÷ tune", "one ÷ tune"]
    print(text.table(rows, head))
    return 0


if __name__ == "__main__":
    sys.exit(main())
