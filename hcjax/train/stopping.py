"""Early stopping: the best validation so far, and the number of validations since."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from hcjax.core import brief
from hcjax.data.dataset import Split
from hcjax.errors import ConfigError


class Best(NamedTuple):
    """The best validation so far.

    value: its monitored number, lower is better. step: completed steps then. since: validations
    after it. kept: host copy of the (params, state) that reached it, None before the first.
    """

    value: float = float("inf")
    step: int = 0
    since: int = 0
    kept: Any = None

    __repr__ = brief.record


def update(best: Best, value: float, step: int, kept: Any) -> Best:
    """Returns the best after one more validation; ties and NaN are not better.

    Args:
      best: before. value: the validation's monitored number, lower is better.
      step: completed steps. kept: function without arguments that copies what was validated; it
        is called only if this validation is the best.

    Example:
      >>> best = update(update(Best(), 0.3, 10, lambda: "a"), 0.4, 20, lambda: "b")
      >>> best.value, best.step, best.since, best.kept
      (0.3, 10, 1, 'a')
    """
    if value < best.value:
        return Best(float(value), step, 0, kept())
    return best._replace(since=best.since + 1)


def check(
    monitors: Iterable[str], monitor: str, patience: int | None, *, validation: Split
) -> None:
    """Raises ConfigError unless `monitor` is among the monitors, and `patience` None or >= 1.

    With patience there must be validation examples.
    """
    if monitor not in monitors:
        raise ConfigError(f"monitor must be one of {sorted(monitors)}, got {monitor!r}")
    if patience is not None and patience < 1:
        raise ConfigError(f"patience must be at least 1 validation, or None, got {patience}")
    if patience is not None and not validation.size:
        raise ConfigError("early stopping (patience) needs validation examples, and there are none")
