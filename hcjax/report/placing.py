"""Where the names of points stand in a picture, so that none hides another or a point.

In: axes and points. Out: names beside their points, with a thin line to those that stand far.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from hcjax.report import canvas

_DISTANCES = (7, 14, 26, 42, 62)  # of a name's nearest corner from its point, in points of type
_ANGLES = (225, 45, 135, 315, 180, 0, 270, 90)  # tried in this order; 45 is up and to the right
_SIZE = 8  # of the letters


def place(
    figure,
    ax,
    points: np.ndarray,
    names: Sequence[str],
    *,
    first: Sequence[int],
    near: bool = False,
) -> list[int]:
    """Writes names beside points where there is room, and returns the indices of those written.

    Args:
      figure: of the axes, with everything else drawn.
      ax: axes of the points.
      points: float[n, 2] in the units of the data; each is kept free.
      names: n texts; "" is not written.
      first: indices of the points that are named before the others, in this order, which a line
        joins; they are tried on the lower left first, the others on the upper right.
      near: whether the others are named only where their names can stand beside them.
    """
    renderer = canvas.laid_out(figure)
    inside = ax.get_window_extent(renderer)
    unit = figure.dpi / 72  # pixels in a point of type
    centres = ax.transData.transform(points)
    taken = [_around(x, y, 4 * unit) for x, y in centres]
    for begin, end in itertools.pairwise(centres[list(first)]):  # the line is kept free, too
        count = max(2, int(np.hypot(*(end - begin)) / (3 * unit)))
        taken += [_around(x, y, unit) for x, y in np.linspace(begin, end, count)]
    chosen: dict[int, tuple[float, float, float]] = {}
    order = [*first, *(i for i in range(len(names)) if i not in set(first))]
    for i in order:
        if not names[i]:
            continue
        probe = ax.text(0, 0, names[i], fontsize=_SIZE)
        box = probe.get_window_extent(renderer)
        probe.remove()
        angles = _ANGLES if i in first else (45, 135, 315, 225, *_ANGLES[4:])
        distances = _DISTANCES[: (4 if i in first else 2) if near else None]
        for distance, angle in itertools.product(distances, angles):
            at = _corner(centres[i], angle, distance * unit, box.width, box.height)
            mine = (at[0] - 2, at[1] - 1, at[0] + box.width + 2, at[1] + box.height + 1)
            fits = (
                mine[0] >= inside.x0 and mine[1] >= inside.y0
                and mine[2] <= inside.x1 and mine[3] <= inside.y1
            )  # fmt: skip
            if fits and not any(_meet(mine, other) for other in taken):
                taken.append(mine)
                chosen[i] = (*at, distance)
                break
    for i in sorted(chosen):
        x, y, distance = chosen[i]
        offset = (x - centres[i][0]) / unit, (y - centres[i][1]) / unit
        line = {"arrowstyle": "-", "color": canvas.FAINT, "lw": 0.7, "shrinkA": 0, "shrinkB": 3}
        ax.annotate(
            names[i], points[i], xytext=offset, textcoords="offset points", fontsize=_SIZE,
            color=canvas.INK, ha="left", va="bottom", zorder=3,
            arrowprops=line | {"relpos": _side(offset)} if distance > _DISTANCES[1] else None,
        )  # fmt: skip
    return sorted(chosen)


def _corner(
    centre: np.ndarray, angle: int, distance: float, width: float, height: float
) -> tuple[float, float]:
    """Returns the lower left corner of a box that stands at an angle and a distance of a point."""
    across, up = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    x, y = centre[0] + distance * across, centre[1] + distance * up
    return x - width * (1 - _sign(across)) / 2, y - height * (1 - _sign(up)) / 2


def _sign(x: float) -> int:
    """Returns -1, 0 or 1; 0 for what is only rounding."""
    return 0 if abs(x) < 1e-9 else 1 if x > 0 else -1


def _side(offset: tuple[float, float]) -> tuple[float, float]:
    """Returns the corner of a box, as fractions of it, that is nearest to its point."""
    return tuple(0.0 if each > 0 else 1.0 for each in offset)  # type: ignore[return-value]


def _around(x: float, y: float, radius: float) -> tuple[float, float, float, float]:
    """Returns the square around a point."""
    return x - radius, y - radius, x + radius, y + radius


def _meet(a: Sequence[float], b: Sequence[float]) -> bool:
    """Returns whether two boxes (left, bottom, right, top) have common points."""
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
