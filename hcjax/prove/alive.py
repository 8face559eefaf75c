"""Whether a network still tells classes apart, or is as good as guessing: dead.

In: accuracies on the same examples. Out: the reason why a network counts as dead, or none.
"""

from __future__ import annotations

import math

import numpy as np

from hcjax.core import formats

ERRORS = 3  # standard errors of an accuracy that are taken for chance


def chance(labels: np.ndarray, num_classes: int) -> float:
    """Returns the accuracy of the best guess without a look: the share of the largest class.

    Args:
      labels: int32[N], 0..K-1.
      num_classes: K; without labels the share is 1 / K.

    Example:
      >>> chance(np.array([0, 0, 0, 1]), 2)
      0.75
    """
    if not len(labels):
        return 1 / max(num_classes, 1)
    return float(np.bincount(labels, minlength=num_classes).max() / len(labels))


def dead(accuracy: float, before: float, labels: np.ndarray, num_classes: int) -> str:
    """Says why a network that was made of another one counts as dead; "" if it is alive.

    It is dead if its accuracy is within three standard errors of guessing,

        accuracy <= c + m,  m = 3 sqrt(c (1 - c) / N),  c = `chance`,

    or more than half of the way from the accuracy before down to guessing, in both cases if it has
    lost more than m. Nothing is said where the network before was no better than guessing itself.

    Args:
      accuracy: of the network, a fraction.
      before: that of the network it was made of, on the same examples.
      labels: int32[N] of these examples.
      num_classes: K.

    Returns:
      The reason, without the network's name.

    Example:
      >>> labels = np.arange(1000) % 10
      >>> dead(0.11, 0.99, labels, 10)
      'its accuracy of 11.00 % is that of guessing (10.00 %)'
      >>> dead(0.50, 0.99, labels, 10)
      'its accuracy fell from 99.00 % to 50.00 %, more than half of the way to guessing (10.00 %)'
      >>> dead(0.90, 0.99, labels, 10), dead(0.10, 0.11, labels, 10)
      ('', '')
    """
    guess = chance(labels, num_classes)
    margin = ERRORS * math.sqrt(guess * (1 - guess) / max(len(labels), 1))
    if before <= guess + margin or before - accuracy <= margin:
        return ""
    now, then, low = (formats.percent(x) for x in (accuracy, before, guess))
    if accuracy <= guess + margin:
        return f"its accuracy of {now} is that of guessing ({low})"
    if accuracy < before - (before - guess) / 2:
        return (
            f"its accuracy fell from {then} to {now}, more than half of the way to guessing ({low})"
        )
    return ""
