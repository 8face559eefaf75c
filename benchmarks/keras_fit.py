"""Keras' own `fit` on JAX, plain and with its training step accelerated.

    pip install keras
    python benchmarks/keras_fit.py             ResNet-20, 9 rounds of 20 steps
    python benchmarks/keras_fit.py --quick     one round of 2 steps: that it runs, not how fast

A user's one line is `model.train_step = hcjax.accelerate(model.train_step)`: Keras' loop, its
optimiser, its loss and its metrics stay, and the pure step that it compiles is rewritten. Both
models begin with the same weights and see the same batches, in turns; the ratio is the median over
rounds, after one round that compiles.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ["KERAS_BACKEND"] = "jax"

BATCH = 128


def resnet20(keras):
    """Returns ResNet-20 for 32 x 32 images by Keras' layers: He et al., 2015, section 4.2."""
    layers = keras.layers

    def convolution(x, filters, size, stride):
        return layers.Conv2D(filters, size, stride, padding="same", use_bias=False)(x)

    def block(x, filters, stride):
        y = layers.ReLU()(layers.BatchNormalization()(convolution(x, filters, 3, stride)))
        y = layers.BatchNormalization()(convolution(y, filters, 3, 1))
        if stride > 1:
            x = layers.BatchNormalization()(convolution(x, filters, 1, stride))
        return layers.ReLU()(layers.add([x, y]))

    inputs = x = keras.Input((32, 32, 3))
    x = layers.ReLU()(layers.BatchNormalization()(convolution(x, 16, 3, 1)))
    for filters in (16, 32, 64):
        for i in range(3):
            x = block(x, filters, 2 if filters > 16 and i == 0 else 1)
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


def ready(keras):
    """Returns a compiled model, the same weights each time."""
    keras.utils.set_random_seed(0)
    model = resnet20(keras)
    model.compile(
        optimizer=keras.optimizers.SGD(0.05, momentum=0.9),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def main() -> None:
    """Prints images a second of both, their ratio, and how far the weights are apart."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=20, help="of a round")
    parser.add_argument("--quick", action="store_true", help="one round of 2 steps")
    options = parser.parse_args()
    rounds, steps = (1, 2) if options.quick else (options.rounds, options.steps)
    import jax
    import numpy as np

    try:
        import keras
    except ImportError:
        sys.exit("this benchmark needs Keras: pip install keras")
    import hcjax
    from hcjax.devices import allocator

    allocator.keep_memory()  # for both
    rng = np.random.default_rng(0)
    x = rng.normal(size=(BATCH * steps, 32, 32, 3)).astype(np.float32)
    y = rng.integers(0, 10, len(x)).astype(np.int32)
    models = {"plain": ready(keras), "accelerated": ready(keras)}
    models["accelerated"].train_step = hcjax.accelerate(models["accelerated"].train_step)
    speeds = {name: [] for name in models}
    for turn in range(rounds + 1):
        for name, model in models.items():
            started = time.perf_counter()
            model.fit(x, y, batch_size=BATCH, epochs=1, shuffle=False, verbose=0)
            seconds = time.perf_counter() - started
            if turn:
                speeds[name].append(len(x) / seconds)
            else:
                weights = [[np.asarray(w) for w in m.get_weights()] for m in models.values()]
    apart = max(float(np.abs(a - b).max()) for a, b in zip(*weights, strict=True))
    ratios = [b / a for a, b in zip(*speeds.values(), strict=True)]
    print(f"Keras {keras.__version__}, jax {jax.__version__}, ResNet-20, batch {BATCH}")
    for name, found in speeds.items():
        print(f"  {name:<12}{statistics.median(found):8,.0f} images/s")
    low, high = min(ratios), max(ratios)
    print(f"  ratio {statistics.median(ratios):.2f} ({low:.2f} to {high:.2f}, {rounds} rounds)")
    print(f"  weights after {steps} steps: at most {apart:.1e} apart")


if __name__ == "__main__":
    main()
