"""Draws every picture with the least and the most there can be, to be looked at.

python -m tests.report.gallery FOLDER
"""

import math
import sys
from pathlib import Path

import numpy as np

from hcjax.report import pictures

RNG = np.random.default_rng(0)


def run(steps, *, every=50, validations=422, smoothing=False):
    """Records of a run: lines of the metrics and validations."""
    found = []
    for step in range(every, steps + 1, every):
        loss = 2.3 * math.exp(-step / (steps / 4)) + 0.02 * RNG.uniform(0.5, 1.5)
        line = {"step": step, "split": "train", "nll": loss, "loss": loss + 0.3 * smoothing}
        found.append(line | {"accuracy": 1 - loss / 2.6})
    for step in range(validations, steps + 1, validations):
        loss = 2.3 * math.exp(-step / (steps / 4)) + 0.05
        found.append({"step": step, "split": "validation", "nll": loss, "accuracy": 1 - loss / 2.6})
    return found


def uneven():
    """Records whose lines end at validations too, as older releases wrote them."""
    found, before = [], 0
    for step in sorted({*range(50, 2001, 50), *range(101, 2001, 101)}):
        noise = RNG.normal() / math.sqrt(step - before)
        loss = 2 * math.exp(-step / 400) * math.exp(0.3 * noise)
        found.append({"step": step, "split": "train", "loss": loss, "accuracy": 1 - loss / 2.6})
        before = step
        if step % 101 == 0:
            nll = 2 * math.exp(-step / 400) + 0.05
            found.append(
                {"step": step, "split": "validation", "nll": nll, "accuracy": 1 - nll / 2.6}
            )
    return found


def stages(count):
    """Points of a pipeline of so many stages, two of them dead."""
    sizes = 2_000_000 * np.exp(-np.arange(count) / max(count / 5, 1)) * RNG.uniform(0.8, 1.2, count)
    errors = 0.005 * np.exp(np.arange(count) / max(count / 2, 1)) * RNG.uniform(0.9, 1.4, count)
    return [
        (f"shrunk-trained_{i}", int(s), float(e))
        for i, (s, e) in enumerate(zip(sizes, errors, strict=True))
    ]


def confusion(classes, mistakes):
    """Counts of examples of which a few are mistaken."""
    found = np.diag(RNG.integers(20, 1500, classes))
    for _ in range(mistakes):
        i, j = RNG.integers(classes, size=2)
        found[i, j] += 1 + (i != j)
    return found


def names(count):
    return [["ant", "great white shark", "cat"][k % 3] + f" {k}" * (k > 2) for k in range(count)]


def photos(count, channels=1, side=28):
    return RNG.integers(0, 255, (count, side, side, channels), dtype=np.uint8)


def mistakes(count, classes=10, **options):
    wrong = np.arange(count) % classes
    return pictures.worst_mistakes(
        photos(count, **options), wrong, (wrong + 1) % classes, np.linspace(1, 0.5, count),
        class_names=names(classes),
    )  # fmt: skip


def layers(count):
    return [f"stage{i // 9}/block{i % 9}/conv" for i in range(count)]


def curves(count):
    levels = (0.0, 0.5, 0.8, 0.9, 0.95)
    loss = RNG.exponential(0.02, count)
    each = {
        n: [0.98 - 0.9 * min(1, a * s**4 * 8) for s in levels]
        for n, a in zip(layers(count), loss, strict=True)
    }
    return pictures.layer_curves(levels, each, baseline=0.98)


def errors(count, *, exact=False):
    sqnr = np.where(RNG.uniform(size=count) < 0.1, np.inf, RNG.uniform(15, 45, count))
    drops = RNG.normal(0.001, 0.001, count)
    return pictures.layer_errors(
        layers(count), sqnr * (math.inf if exact else 1), drops * (not exact)
    )


PICTURES = {
    "curves-usual": lambda: pictures.learning_curves(run(8440)),
    "curves-long": lambda: pictures.learning_curves(run(300_000, validations=9000)),
    "curves-3-steps": lambda: pictures.learning_curves(run(3, every=1, validations=3)),
    "curves-1-step": lambda: pictures.learning_curves(run(1, every=1, validations=1)),
    "curves-smoothing": lambda: pictures.learning_curves(run(8440, smoothing=True)),
    "curves-uneven": lambda: pictures.learning_curves(uneven()),
    "curves-history": lambda: pictures.learning_curves(
        [
            {
                "step": s,
                "train_loss": 2 / s,
                "train_accuracy": 1 - 1 / s,
                "nll": 2 / s + 0.01,
                "accuracy": 1 - 1.1 / s,
            }
            for s in range(2, 7)
        ]
    ),
    "curves-nothing": lambda: pictures.learning_curves([]),
    "pareto-1": lambda: pictures.pareto(stages(1)),
    "pareto-5": lambda: pictures.pareto(stages(5), dead=[3]),
    "pareto-12": lambda: pictures.pareto(stages(12)),
    "pareto-100": lambda: pictures.pareto(stages(100), dead=[40, 90]),
    "pareto-equal": lambda: pictures.pareto(
        [("float", 1_724_320, 0.0045), ("trimmed", 310_000, 0.0046), ("int8", 310_000, 0.0046)]
    ),
    "pareto-near": lambda: pictures.pareto(
        [("float", 90_000, 0.0045), ("shrunk", 89_800, 0.0045), ("pruned", 89_900, 0.00451)]
    ),
    "pareto-dead": lambda: pictures.pareto(
        [("float", 1_724_320, 0.01), ("shrunk", 300_000, 0.9), ("int8", 90_000, 0.9)], dead=[1, 2]
    ),
    "mistakes-0": lambda: mistakes(0),
    "mistakes-1": lambda: mistakes(1),
    "mistakes-2-colour": lambda: mistakes(2, channels=3),
    "mistakes-9": lambda: mistakes(9),
    "mistakes-32": lambda: mistakes(32, side=64, channels=3),
    "confusion-2": lambda: pictures.confusion_matrix(confusion(2, 9)),
    "confusion-3": lambda: pictures.confusion_matrix(confusion(3, 9), class_names=names(3)),
    "confusion-large-counts": lambda: pictures.confusion_matrix(confusion(3, 9) * 123_457),
    "confusion-10": lambda: pictures.confusion_matrix(confusion(10, 90)),
    "confusion-30": lambda: pictures.confusion_matrix(confusion(30, 300), class_names=names(30)),
    "confusion-100": lambda: pictures.confusion_matrix(confusion(100, 300), class_names=names(100)),
    "confusion-1000": lambda: pictures.confusion_matrix(
        confusion(1000, 500), class_names=names(1000)
    ),
    "confusion-1000-perfect": lambda: pictures.confusion_matrix(confusion(1000, 0)),
    "filters-1": lambda: pictures.filters(RNG.normal(size=(5, 5, 1, 1))),
    "filters-6": lambda: pictures.filters(RNG.normal(size=(5, 5, 1, 6))),
    "filters-100-colour": lambda: pictures.filters(RNG.normal(size=(7, 7, 3, 100))),
    "filters-dense": lambda: pictures.filters(RNG.normal(size=(784, 300)), input_shape=(28, 28, 1)),
    "layer-curves-3": lambda: curves(3),
    "layer-curves-20": lambda: curves(20),
    "layer-curves-100": lambda: curves(100),
    "layer-errors-1": lambda: errors(1),
    "layer-errors-20": lambda: errors(20),
    "layer-errors-300": lambda: errors(300),
    "layer-errors-exact": lambda: errors(3, exact=True),
}


def main(folder):
    for name, draw in PICTURES.items():
        print(pictures.save(draw(), Path(folder) / f"{name}.png"))


if __name__ == "__main__":
    main(sys.argv[1])
