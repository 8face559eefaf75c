"""Networks of other libraries' zoos through the whole chain: trace, fold, shrink, int8, a file.

    python benchmarks/zoo.py                     all of them: many minutes
    python benchmarks/zoo.py --only haiku,vit    those whose name or library holds one of the words
    python benchmarks/zoo.py --list              their names

Prints for each network its library, ops and parameters as folded, how far the folded outputs are
from the library's own (as a share of the largest), the ops that integers leave in float, whether
the integer network's outputs are those of the fake-quantized one and of the unpacked file bit for
bit, and the seconds of everything. Parameters are as initialised, but those that are constant get
small random numbers: a last layer of zeros would prove nothing. Nothing is downloaded. The exit
code is 1 if a network fails, bits differ, or outputs are off by more than 1e-3.

Needs `pip install -e '.[test]'`; further `pip install keras` for Keras' networks, and
`pip install 'transformers<5'` for Hugging Face's. A library that is missing is named and skipped.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("KERAS_BACKEND", "jax")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import numpy as np

import hcjax
from hcjax.core import text

COUNT = 8  # images that ranges are calibrated on and outputs compared of
Made = tuple[Callable, Any, np.ndarray]  # (params, images) -> outputs, parameters, images
HEAD = ("network", "library", "ops", "parameters", "folded", "in float", "bits", "seconds")


class Row(NamedTuple):
    """What is found of one network; `problem` of one that failed or was skipped."""

    ops: int = 0
    parameters: int = 0
    difference: float = float("nan")
    floats: int = 0
    equal: bool = False
    seconds: float = 0.0
    problem: str = ""


def normal(*shape: int) -> np.ndarray:
    """Returns float32 numbers of a normal distribution, the same each time."""
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def varied(tree: Any) -> Any:
    """Returns parameters and statistics of which no array is constant; positive ones stay so."""
    rng = np.random.default_rng(0)

    def vary(x):
        x = np.asarray(x)
        if x.dtype.kind != "f" or x.size < 2 or np.ptp(x):
            return x
        return x + rng.uniform(0.02, 0.2, x.shape).astype(x.dtype)

    return jax.tree.map(vary, tree)


def of_module(module: Any, images: np.ndarray) -> Made:
    """Returns a network as `hcjax.network` splits it."""
    net = hcjax.network(module, images[:1])
    return net.inference(varied(net.state)), varied(net.params), images


def haiku(name: str, side: int, **options: Any) -> Made:
    """Returns a network of `haiku.nets`."""
    import haiku as hk

    def forward(x, is_training=True):
        return getattr(hk.nets, name)(num_classes=10, **options)(x, is_training)

    return of_module(hk.transform_with_state(forward), normal(COUNT, side, side, 3))


def equinox(name: str, side: int = 16) -> Made:
    """Returns a network of `equinox.nn`, or one built as in Equinox's examples."""
    import equinox as eqx

    key = jax.random.key(0)
    if name == "MLP":
        return of_module(eqx.nn.MLP(64, 10, 128, 3, key=key), normal(COUNT, 64))
    keys = jax.random.split(key, 4)
    layers = [
        eqx.nn.Conv2d(3, 16, 4, key=keys[0]),
        eqx.nn.MaxPool2d(2, 2),
        eqx.nn.Lambda(jax.nn.relu),
        eqx.nn.Lambda(lambda x: x.reshape(-1)),
        eqx.nn.Linear(16 * ((side - 3) // 2) ** 2, 64, key=keys[1]),
        eqx.nn.Lambda(jax.nn.sigmoid),
        eqx.nn.LayerNorm(64),
        eqx.nn.Linear(64, 10, key=keys[2]),
    ]
    return of_module(eqx.nn.Sequential(layers), normal(COUNT, 3, side, side))


def hugging_face(name: str) -> Made:
    """Returns a Flax network of Hugging Face's transformers, with few and narrow layers."""
    import transformers as hf

    if name == "ResNet":
        config = hf.ResNetConfig(
            embedding_size=16, hidden_sizes=[16, 32], depths=[2, 2], num_labels=10
        )
        model = hf.FlaxResNetForImageClassification(config, input_shape=(1, 32, 32, 3))
    else:
        sizes = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
        sizes |= {"intermediate_size": 96, "image_size": 32, "patch_size": 8, "num_labels": 10}
        model = hf.FlaxViTForImageClassification(hf.ViTConfig(**sizes))
    variables = model.params if "params" in model.params else {"params": model.params}

    def apply(variables, images):
        return model.module.apply(variables, images).logits

    return apply, varied(variables), normal(COUNT, 32, 32, 3)


def keras(name: str, side: int, **options: Any) -> Made:
    """Returns a network of `keras.applications`."""
    import keras

    make = getattr(keras.applications, name)
    shape = {"input_shape": (side, side, 3), "classes": 10}
    module = make(weights=None, classifier_activation=None, **shape, **options)
    return of_module(module, normal(COUNT, side, side, 3))


# name -> (library, package, function that makes it)
NETWORKS: dict[str, tuple[str, str, Callable[[], Made]]] = {
    "ResNet (Flax)": ("Hugging Face", "transformers", partial(hugging_face, "ResNet")),
    "ViT (Flax)": ("Hugging Face", "transformers", partial(hugging_face, "ViT")),
    "MLP": ("Equinox", "equinox", partial(equinox, "MLP")),
    "CNN of its examples": ("Equinox", "equinox", partial(equinox, "CNN")),
    "ResNet18": ("Haiku", "haiku", partial(haiku, "ResNet18", 32)),
    "ResNet50": ("Haiku", "haiku", partial(haiku, "ResNet50", 32)),
    "MobileNetV1": ("Haiku", "haiku", partial(haiku, "MobileNetV1", 32)),
    "MobileNetV2": ("Keras", "keras", partial(keras, "MobileNetV2", 32)),
    "MobileNetV3Small": ("Keras", "keras", partial(keras, "MobileNetV3Small", 32)),
    "ResNet50V2": ("Keras", "keras", partial(keras, "ResNet50V2", 32)),
    "DenseNet121": ("Keras", "keras", partial(keras, "DenseNet121", 32)),
    "EfficientNetB0": ("Keras", "keras", partial(keras, "EfficientNetB0", 32)),
    "ConvNeXtTiny": ("Keras", "keras", partial(keras, "ConvNeXtTiny", 32)),
}


def tried(make: Callable[[], Made]) -> Row:
    """Takes one network through the chain."""
    started = time.perf_counter()
    apply, params, images = make()
    model = hcjax.fold(hcjax.trace(apply, params, images[:1]))
    theirs, ours = (
        np.asarray(jax.jit(f)(p, images), np.float64)
        for f, p in ((apply, params), (model.apply, model.params))
    )
    small = hcjax.shrink(model, macs=0.8, images=images)
    fake = hcjax.fake_quantize(small, hcjax.calibrate(small, images))
    int8 = hcjax.int8(fake)
    again = hcjax.unpack(hcjax.pack(int8))
    found = [np.asarray(jax.jit(m.apply)(m.params, images)) for m in (int8, fake, again)]
    return Row(
        len(model.graph.ops),
        hcjax.trees.num_parameters(model.params),
        float(np.abs(ours - theirs).max() / np.abs(theirs).max()),
        len(int8.floats),
        all(np.array_equal(found[0], each) for each in found[1:]) and bool(np.ptp(found[0])),
        time.perf_counter() - started,
    )


def attempt(package: str, make: Callable[[], Made]) -> Row:
    """Returns the row of a network, or why there is none."""
    try:
        __import__(package)
    except ImportError as error:
        return Row(problem=f"skipped: {error}")
    try:
        return tried(make)
    except Exception as error:  # whatever it is, the others are tried
        traceback.print_exc()
        return Row(problem=f"FAILED: {type(error).__name__}: {error}")


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="words, with commas between them")
    parser.add_argument("--list", action="store_true", help="print the names and end")
    given = parser.parse_args()
    words = [word for word in given.only.lower().split(",") if word]
    lines, wrong = [HEAD], False
    for name, (library, package, make) in NETWORKS.items():
        if words and not any(word in f"{library} {name}".lower() for word in words):
            continue
        if given.list:
            print(f"{library}: {name}")
            continue
        row = attempt(package, make)
        bad = row.problem.startswith("FAILED") or not (
            row.problem or (row.equal and row.difference < 1e-3)
        )
        wrong = wrong or bad
        cells = (
            (row.problem.splitlines()[0], *[""] * 5)
            if row.problem
            else (
                str(row.ops),
                f"{row.parameters:,}",
                f"{row.difference:.0e}",
                str(row.floats),
                "equal" if row.equal else "DIFFER",
                f"{row.seconds:.0f}",
            )
        )
        lines.append((name, library, *cells))
        print("  ".join(lines[-1]), file=sys.stderr, flush=True)
    if not given.list:
        print(text.aligned(lines, right=[False, False] + [True] * 6))
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
