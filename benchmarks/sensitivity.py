"""How long the sensitivity of LeNet-5's layers takes, and what the picker makes of it.

    python benchmarks/sensitivity.py

Trains one epoch on MNIST, then prunes and rounds one layer at a time, on 5,000 validation images.
Then it measures what was picked for a size on those images. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import jax
import optax

import hcjax
from hcjax.report import pictures

EXAMPLES = 5000


def trained() -> tuple:
    """Returns (folded Model, images, labels) of LeNet-5 after an epoch, and the validation part."""
    data = hcjax.data.load("mnist")
    init, apply = hcjax.models.create("lenet5")
    params, state = init(jax.random.key(0))
    steps = len(data.train.labels) // 128
    done = hcjax.fit(
        apply, params, data, state=state, loss=hcjax.losses.cross_entropy, tx=optax.adam(1e-3),
        steps=steps, key=jax.random.key(1),
    )  # fmt: skip
    images = hcjax.data.normalise(data.validation.images[:EXAMPLES], data.mean, data.std)
    model = hcjax.trace(hcjax.inference(apply, done.state), done.params, images[:1])
    return hcjax.fold(model), images, data.validation.labels[:EXAMPLES]


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=Path, help="folder for PNG files")
    args = parser.parse_args()
    model, images, labels = trained()
    total = 0.0
    for against, sizes in (("sparsity", (0.2, 0.1, 0.05)), ("bits", (4 / 32, 3 / 32))):
        start = time.perf_counter()
        found = hcjax.sensitivity(model, images, labels, against=against)
        total += time.perf_counter() - start
        print(found)
        for size in sizes:
            picked = hcjax.pick(found, size=size)
            accuracy = found.measure(list(picked.values()))[0]
            print(f"size {size:.4f}: {picked}, accuracy {100 * accuracy:.2f} %")
        close = found.accuracy - 0.002
        start = time.perf_counter()
        picked = hcjax.pick(found, accuracy=close)
        seconds = time.perf_counter() - start
        print(f"accuracy >= {100 * close:.2f} %: {picked}, found in {seconds:.1f} s")
        if args.pictures:
            accuracy = {row.path: row.accuracy for row in found.rows}
            figure = pictures.layer_curves(
                found.levels, accuracy, baseline=found.accuracy, against=against
            )
            pictures.save(figure, args.pictures / f"{against}.png")
    print(
        f"both sweeps: {total:.1f} s, {len(images):,} images, {len(os.sched_getaffinity(0))} cores"
    )


if __name__ == "__main__":
    main()
