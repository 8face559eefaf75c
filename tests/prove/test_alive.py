"""A network that is as good as guessing is called dead, and no healthy one is."""

import numpy as np
import pytest

from hcjax.app.stages import advice
from hcjax.prove import alive, cards

LABELS = np.arange(1000) % 10
SKEWED = np.array([0] * 900 + [1] * 100)


@pytest.mark.parametrize(
    ("accuracy", "before", "labels", "classes", "reason"),
    [
        (0.1, 0.99, LABELS, 10, "that of guessing (10.00 %)"),
        (0.128, 0.99, LABELS, 10, "that of guessing"),  # three standard errors are 2.8 points
        (0.54, 0.99, LABELS, 10, "more than half of the way"),
        (0.55, 0.99, LABELS, 10, ""),
        (0.95, 0.99, LABELS, 10, ""),
        (0.91, 0.99, SKEWED, 2, "that of guessing (90.00 %)"),  # the largest class, always
        (0.97, 0.99, SKEWED, 2, ""),
        (0.10, 0.11, LABELS, 10, ""),  # the one before was no better
        (0.55, 0.75, np.arange(16) % 3, 3, ""),  # of 16 examples that is chance
        (0.0, 0.9, LABELS[:10], 10, "guessing"),
        (1.0, 1.0, LABELS[:0], 10, ""),
    ],
)
def test_dead_is_near_guessing_or_far_below_the_one_before(
    accuracy, before, labels, classes, reason
):
    found = alive.dead(accuracy, before, labels, classes)
    assert reason in found and bool(found) == bool(reason)


def test_the_advice_is_of_the_stage():
    options = {"shrink": {"macs": 0.02, "epochs": 1.0}, "quantize": {"bits": 2, "epochs": 0.0}}
    assert advice("shrunk", options).startswith(
        "Training follows and may mend it; if not: fewer MACs"
    )
    assert "more shrink.images to refit on, more shrink.epochs" in advice("shrunk-trained", options)
    assert advice("quantized_1", options).startswith("Change: more quantize.bits")
    assert "another learning rate" in advice("rounded", options)


def test_the_table_marks_it():
    row = dict.fromkeys(cards.Scorecard._fields, 1) | {"name": "int8", "device": "cpu"}
    row |= {
        "score": "accuracy",
        "difference": None,
        "latency_seconds": None,
        "images_per_second": None,
    }
    assert "int8 (dead)" in cards.table([row | {"dead": True}])
    assert "dead" not in cards.table([row])
