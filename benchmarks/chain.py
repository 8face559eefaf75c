"""How long a whole network takes through the chain, from trace to a packed integer file.

    python benchmarks/chain.py                 Haiku's ResNet-18, 64 x 64 images: under a minute
    python benchmarks/chain.py --keras         Keras' MobileNetV2, 224 x 224 images: a minute

Parameters and statistics are random (as initialised a last layer is zero, which would prove
nothing). Prints the seconds of trace, fold, calibrate, int8, pack and unpack, each with what it
compiles, and how far the folded logits are from the library's own; of ResNet-18 also whether the
integer network's bits are those of the NumPy interpreter. The exit code is 1 if that fails, logits
differ by 1e-4, or it takes longer than it should: ResNet-18's trace, fold and int8 10 s together,
MobileNetV2's whole chain 30 s, packing or unpacking 1 s for each million of parameters. Needs
`pip install -e '.[test]'`, and --keras `pip install keras`.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import haiku as hk
import jax
import numpy as np

import hcjax
from tests.graph import networks, reference


def resnet18() -> tuple[Callable, Any, np.ndarray]:
    """Returns Haiku's ResNet-18, its parameters, and images."""
    apply, params, _ = networks.haiku(lambda: hk.nets.ResNet18(10), size=64)
    return apply, params, np.random.default_rng(0).standard_normal((8, 64, 64, 3)).astype("f")


def mobilenet_v2() -> tuple[Callable, Any, np.ndarray]:
    """Returns Keras' MobileNetV2, its parameters, and images."""
    import keras

    net = keras.applications.MobileNetV2(weights=None, classifier_activation=None)
    rng = np.random.default_rng(0)

    def apply(params, images):
        return net.stateless_call(params["trained"], params["kept"], images, training=False)[0]

    params = {
        "trained": [v.value for v in net.trainable_variables],
        "kept": [v.value * rng.uniform(0.5, 1.5, v.shape).astype("f")
                 if "moving" in v.path else v.value for v in net.non_trainable_variables],
    }  # fmt: skip
    return apply, params, rng.uniform(-1, 1, (32, 224, 224, 3)).astype("f")


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--keras", action="store_true", help="MobileNetV2 of Keras")
    keras = parser.parse_args().keras
    apply, params, images = mobilenet_v2() if keras else resnet18()
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
    data = timed("pack", hcjax.pack, small)
    again = timed("unpack", hcjax.unpack, data)
    total = sum(seconds[name] for name in ("trace", "fold", "int8"))
    whole = sum(seconds.values()) - seconds["unpack"]
    millions = hcjax.trees.num_parameters(small.params) / 1e6
    some = images[:8]
    ways = ((apply, params), (model.apply, model.params))
    theirs, ours = (np.asarray(jax.jit(f)(p, some), np.float64) for f, p in ways)
    difference = np.abs(ours - theirs).max() / np.abs(theirs).max()
    found, kept = (np.asarray(jax.jit(m.apply)(m.params, some)) for m in (small, again))
    equal = np.array_equal(found, kept)
    if not keras:
        equal = equal and np.array_equal(found, reference.logits(small, some))
    print(f"whole chain {whole:.2f} s, {len(data):,} bytes, {millions:.2f} million parameters")
    print(f"trace, fold and int8 {total:.2f} s; folded logits {difference:.1e} of the largest off")
    beside = "" if keras else ", and the NumPy interpreter's"
    print(f"{len(small.floats)} ops in float; logits equal the unpacked file's{beside}: {equal}")
    slow = whole > 30 if keras else total > 10
    slow = slow or max(seconds["pack"], seconds["unpack"]) > max(millions, 0.5)
    return int(slow or difference > 1e-4 or not equal)


if __name__ == "__main__":
    sys.exit(main())
