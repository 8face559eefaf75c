"""Networks in integers as C, beside hcjax's own programs and ONNX Runtime, on one core.

    python benchmarks/ship.py                LeNet-5 and ResNet-20, batch 1 and 128, 9 rounds
    python benchmarks/ship.py SOURCE...      networks of workdirs or .hcz files
    python benchmarks/ship.py --quick        one round of the seed CNN: that it runs, not how fast

Each way computes the same batches in turns, in one thread of one process; the figures are medians
over rounds, and the ratios medians of the rounds' ratios to the first row. `jax` is what
`hcjax.tune` finds to be fastest, native kernels among it. `C, coded` has coded weights, if that
makes another program. ONNX Runtime takes the file that `hcjax.export` writes for it, if it and the
exporter are there. The images are random, and so are the parameters where no network is named: what
they compute does not change how long it takes. Equal bits are asserted, not printed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("OMP_NUM_THREADS", "1")
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

import jax
import numpy as np

import hcjax
from hcjax.export.c import c
from hcjax.export.c.engine import built
from hcjax.runs import saved

NETWORKS = {"lenet5": (28, 28, 1), "resnet20": (32, 32, 3)}
TURN = 0.15  # seconds of each way in a round, at least


def network(name: str, shape: tuple[int, int, int]):
    """Returns a network in integers, and 128 images."""
    made = hcjax.models.create(name, input_shape=shape, num_classes=10)
    params, state = made.init(jax.random.key(0))
    images = np.random.default_rng(0).uniform(0, 1, (128, *shape)).astype(np.float32)

    def apply(params, x):
        return made.apply(params, state, x, train=False)[0]

    model = hcjax.fold(hcjax.trace(apply, params, images[:2]))
    return hcjax.int8(model, hcjax.calibrate(model, images)), images


def read(source: str):
    """Returns a saved network in integers, and 128 images."""
    model, _ = saved.load_any(saved.alone(source))
    images = np.random.default_rng(0).uniform(0, 1, (128, *model.image_shape)).astype(np.float32)
    return model, images


def ways(model, x):
    """Returns name -> function of no arguments that computes a batch."""
    call = hcjax.tune(lambda x: model.apply(model.params, x), x)
    source = c(model)
    engine = built(source.files, model.inputs, model.outputs)
    found = {
        "C": lambda: engine.run([x])[0],
        "jax": lambda: np.asarray(call(x)),
    }
    coded = c(model, weights="coded").files
    if coded != source.files:
        second = built(coded, model.inputs, model.outputs)
        found["C, coded"] = lambda: second.run([x])[0]
        np.testing.assert_array_equal(found["C, coded"](), found["C"]())
    np.testing.assert_array_equal(found["C"](), found["jax"]())
    try:
        import onnxruntime

        from hcjax.export.onnx.export import onnx
    except ImportError:
        return found, source
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        onnx(model, form="qdq"), options, providers=["CPUExecutionProvider"]
    )
    (taken,) = (each.name for each in session.get_inputs())
    return found | {"ONNX Runtime": lambda: session.run(None, {taken: x})[0]}, source


def speed(way, size: int) -> float:
    """Returns examples a second of one turn."""
    calls, started = 0, time.perf_counter()
    while (seconds := time.perf_counter() - started) < TURN:
        way()
        calls += 1
    return calls * size / seconds


def main() -> None:
    """Prints a table for each network and size of batch."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("sources", nargs="*", help="workdirs or .hcz files")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="one round of the seed CNN")
    options = parser.parse_args()
    wanted = {"seed_cnn_tiny": (8, 8, 1)} if options.quick else NETWORKS
    found = [(name, partial(network, name, shape)) for name, shape in wanted.items()]
    for name, make in [(s, partial(read, s)) for s in options.sources] or found:
        model, images = make()
        for size in (1, 128):
            found, source = ways(model, images[:size])
            rounds = []
            for _ in range(1 if options.quick else options.rounds):
                rounds.append({label: speed(way, size) for label, way in found.items()})
            print(f"{name}, batch {size}, one core (C keeps {source.memory:,} bytes in memory)")
            for label in found:
                ratios = [each[label] / each["C"] for each in rounds]
                print(
                    f"  {label:<14}{statistics.median(each[label] for each in rounds):10,.0f} /s"
                    f"{statistics.median(ratios):8.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
                )


if __name__ == "__main__":
    main()
