"""Networks in integers as C, on their test sets: how many images have the bits of `int8.apply`.

    python benchmarks/bits.py SOURCE... [--images=10000]     workdirs or .hcz files

In the builds that this machine can run: with AVX-512 VNNI, with AVX2, and plain C. An image counts
as equal if every bit of every output is; accuracy is of the same answers.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np

import hcjax
from hcjax.app import exporting, scoring
from hcjax.core import formats, text
from hcjax.export import examples
from hcjax.export.c import c
from hcjax.export.c.engine import built
from hcjax.export.c.source import WEIGHTS
from hcjax.runs import saved

# name -> (what the processor must have, flags of the compiler)
BUILDS = {
    "AVX-512 VNNI": ({"avx512_vnni", "avx512bw", "avx512vl"}, ("-march=icelake-server",)),
    "AVX2": ({"avx2"}, ("-march=haswell",)),
    "plain": (set(), ()),
}
BATCH = 500


def processor() -> set[str]:
    """Returns what Linux says that this machine's processor has."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n")
    except OSError:
        return set()
    return {word for line in lines if line.startswith("flags") for word in line.split()}


def rows(
    model: hcjax.Model, inputs: Sequence[np.ndarray], targets: np.ndarray | None
) -> list[tuple]:
    """Returns (build, weights, equal examples of all, accuracy) of each build that can run here.

    Args:
      model: in integers. inputs: flat, [n, ...]. targets: classes, or None.
    """
    count, has, found = len(inputs[0]), processor(), []
    parts = [[x[i : i + BATCH] for x in inputs] for i in range(0, count, BATCH)]
    expected = [examples.outputs(model, part) for part in parts]
    for weights in WEIGHTS:
        files = c(model, weights=weights).files
        for build, (needed, flags) in BUILDS.items():
            if not needed <= has:
                found.append((build, weights, "not here", None))
                continue
            run = built(files, model.inputs, model.outputs, flags=flags)
            made = [run.run(part) for part in parts]
            equal = sum(_equal(a, b) for a, b in zip(made, expected, strict=True))
            share = None
            if targets is not None:
                answers = np.concatenate([outputs[0].argmax(-1) for outputs in made])
                share = formats.percent(float((answers == targets).mean()))
            found.append((build, weights, f"{equal:,} of {count:,}", share))
    return found


def _equal(made: Sequence[np.ndarray], true: Sequence[np.ndarray]) -> int:
    """Returns how many examples have the same bits in all outputs."""
    same = [
        (a.view(np.uint8) == b.view(np.uint8)).reshape(len(a), -1).all(1)
        for a, b in zip(made, true, strict=True)
    ]
    return int(np.all(same, 0).sum())


def main(argv: Sequence[str] | None = None) -> int:
    """Prints a table; returns 1 if an image has other bits."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("sources", nargs="+", help="workdirs or .hcz files")
    parser.add_argument("--images", type=int, default=10000, help="of the test set, at most")
    options = parser.parse_args(argv)
    table = []
    paths = [saved.alone(source) for source in options.sources]
    for name, path in zip(saved.short(paths), paths, strict=True):
        model, _ = saved.load_any(path)
        dataset = scoring.dataset_of(path, model, None, ())
        inputs, targets = exporting.test_of(dataset, model.about, count=options.images)
        flat = [np.asarray(x) for x in jax.tree.leaves(inputs)]
        classes = np.asarray(targets) if np.ndim(targets) == 1 else None
        table += [(name, *row) for row in rows(model, flat, classes)]
    print(text.table(table, ("network", "build", "weights", "equal bits", "accuracy")))
    return int(any(len({*row[3].split(" of ")}) > 1 for row in table))


if __name__ == "__main__":
    sys.exit(main())
