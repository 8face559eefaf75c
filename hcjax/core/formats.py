"""Formats of single numbers for people; a number's name says its unit.

Inside the project accuracies are fractions, sizes are bytes and times are seconds. Only here do
they become percent, MiB and minutes.
"""

from __future__ import annotations

import math

FRACTIONS = ("accuracy", "error", "ece", "sparsity", "density", "confidence", "difference")
FRACTIONS += ("iou", "ap50", "recall_at_1", "recall_at_5", "f1")


def value(name: str, x: object) -> str:
    """Formats `x` as short text in the unit that its name implies.

    Args:
      name: of the number, e.g. `"test_accuracy"`, `"train_seconds"`, `"weight_bytes"`. A number
        whose name ends in one of `FRACTIONS` is printed as percent.
      x: a number, a string (returned as it is), a bool, or None (printed as `-`).

    Returns:
      Text without the name.

    Example:
      >>> value("test_accuracy", 0.99504), value("parameters", 431080), value("nll", 0.015625)
      ('99.50 %', '431,080', '0.01562')
      >>> value("weight_bytes", 1724320), value("train_seconds", 754.2), value("nll", None)
      ('1.64 MiB', '12 min 34 s', '-')
    """
    if x is None:
        return "-"
    if isinstance(x, str):
        return x
    if isinstance(x, bool):
        return "yes" if x else "no"
    number = float(x)  # type: ignore[arg-type]
    if not math.isfinite(number):
        return str(number)
    if name.endswith(FRACTIONS):
        return percent(number, sign="difference" in name)
    if name.endswith("bytes"):
        return size(number)
    if "seconds" in name:
        return duration(number)
    if name.endswith(("seed", "step")):
        return f"{number:.0f}"
    if number.is_integer() and (isinstance(x, int) or abs(number) >= 1e4):
        return f"{number:,.0f}"
    return f"{number:,.0f}" if 1e4 <= abs(number) < 1e15 else f"{number:.4g}"


def label(name: str) -> str:
    """Formats a metric's name for people.

    Args:
      name: the key in a report, e.g. `"images_per_second"`.

    Returns:
      The words, with the unit where the number does not carry one.

    Example:
      >>> label("validation_accuracy"), label("images_per_second"), label("weight_bytes")
      ('validation accuracy', 'images/s', 'weight bytes')
    """
    return name.replace("_per_second", "/s").replace("_", " ")


def percent(fraction: float, *, sign: bool = False) -> str:
    """Formats a fraction as percent with two decimals, never rounded up to a perfect 100.

    Args:
      fraction: usually in [0, 1].
      sign: whether to write "+" too, e.g. for a difference.

    Returns:
      E.g. `"99.50 %"`.

    Example:
      >>> percent(0.5), percent(0.99999), percent(1.0), percent(0.001, sign=True)
      ('50.00 %', '99.99 %', '100.00 %', '+0.10 %')
    """
    if 0.9999 < fraction < 1:
        return "99.99 %"
    return f"{100 * fraction:{'+' if sign else ''}.2f} %"


def size(size_bytes: float) -> str:
    """Formats a size with three digits, in B, KiB, MiB or GiB (powers of 1024).

    Args:
      size_bytes: a whole number of bytes.

    Returns:
      E.g. `"1.64 MiB"`.

    Example:
      >>> size(800), size(1724320), size(3 * 2**40)
      ('800 B', '1.64 MiB', '3,072 GiB')
    """
    for unit, power in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if size_bytes >= 1 << power:
            count = size_bytes / (1 << power)
            return f"{count:,.{2 if count < 10 else 1 if count < 100 else 0}f} {unit}"
    return f"{size_bytes:.0f} B"


def duration(seconds: float) -> str:
    """Formats an elapsed time with three or more significant digits.

    Args:
      seconds: not negative.

    Returns:
      E.g. `"4.21 s"`, `"12 min 34 s"`, `"3 h 25 min"`.

    Example:
      >>> duration(0.0213), duration(83.21), duration(12345)
      ('0.0213 s', '83.2 s', '3 h 26 min')
    """
    if seconds < 119.95:
        return f"{seconds:.3g} s"
    if seconds < 3599.5:
        return f"{round(seconds) // 60} min {round(seconds) % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def clock(seconds: float | None) -> str:
    """Formats a remaining time like a clock; `?` when it is unknown.

    Args:
      seconds: not negative, or None.

    Returns:
      E.g. `"0:07"`, `"12:34"`, `"3:25:45"`.

    Example:
      >>> clock(7.4), clock(12345), clock(None)
      ('0:07', '3:25:45', '?')
    """
    if seconds is None or not math.isfinite(seconds):
        return "?"
    total = round(seconds)
    hours, minutes, rest = total // 3600, total // 60 % 60, total % 60
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
