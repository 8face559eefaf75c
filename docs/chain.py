"""Draws a pipeline's stages as a chain: each file a square whose area is its number of bytes.

Command: python docs/chain.py WORKDIR [PICTURE]

In: `report.json` of a workdir of a config with stages. Out: a PNG, `WORKDIR/chain.png` if no other
is named. One scale holds for all squares of a picture. The accuracies are of the whole test set.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hcjax.core import formats
from hcjax.report import canvas

COLOURS = ("#4c78a8", "#e45756")  # of all stages, and of the last
WIDTH, GAP = 1.0, 0.28  # of the largest square, and between columns
SMALLEST = 0.02  # side of a square that can still be seen


def draw_chain(stages: Sequence[Mapping[str, Any]], *, title: str):
    """Draws the stages from left to right, in their order.

    Args:
      stages: rows of `report.json`: "name", "file_bytes" > 0 and "accuracy" in 0..1.
      title: above the picture.

    Returns:
      A `matplotlib.figure.Figure`.

    Raises:
      ValueError: if there are no stages.

    Example:
      >>> rows = [{"name": "a", "file_bytes": size, "accuracy": 0.9} for size in (400, 100)]
      >>> [round(patch.get_width(), 2) for patch in draw_chain(rows, title="").axes[0].patches]
      [1.0, 0.5]
    """
    from matplotlib.patches import Rectangle

    if not stages:
        raise ValueError("no stages to draw")
    names = [canvas.escape(row["name"]).replace("-", "\n") for row in stages]
    below = -0.3 - 0.16 * max(name.count("\n") for name in names)
    figure = canvas.figure(1.6 * len(stages) + 0.3, 3.4, title)
    ax = figure.subplots()
    first, last = stages[0]["file_bytes"], len(stages) - 1
    most = max(row["file_bytes"] for row in stages)
    for i, row in enumerate(stages):
        x, side = i * (WIDTH + GAP), max(SMALLEST, (row["file_bytes"] / most) ** 0.5)
        colour = COLOURS[i == last]
        ax.add_patch(Rectangle((x - side / 2, 0), side, side, color=colour, lw=0))
        smaller = f"{first / row['file_bytes']:,.3g} × smaller" if i else ""
        lines = [f"{row['file_bytes']:,} bytes", formats.percent(row["accuracy"]), smaller]
        for k, line in enumerate(names[i].split("\n")):
            ax.text(x, -0.2 - 0.16 * k, line, ha="center", weight="bold", color=canvas.INK,
                    fontsize=14)  # fmt: skip
        ax.text(x, below, "\n".join(lines), ha="center", va="top", color=canvas.INK, fontsize=12,
                linespacing=1.35)  # fmt: skip
        if i:
            start = x - 0.5 * (WIDTH + GAP) - 0.08
            head = {"arrowstyle": "->", "color": canvas.INK}
            ax.annotate("", (start + 0.2, 0.06), xytext=(start, 0.06), arrowprops=head)
    ax.set(xlim=(-0.66, last * (WIDTH + GAP) + 0.66), ylim=(below - 0.62, 1.02), aspect="equal")
    ax.axis("off")
    return figure


def main(argv: Sequence[str]) -> int:
    """Writes the picture of one workdir and prints its path and numbers.

    Args:
      argv: the workdir, and where the picture goes.
    """
    if not 1 <= len(argv) <= 2 or argv[0].startswith("-"):
        print(__doc__)
        return 0 if argv and argv[0] in ("-h", "--help") else 2
    report = Path(argv[0]) / "report.json"
    if not report.exists():
        print(f"no {report}: name the workdir of a finished run", file=sys.stderr)
        return 2
    stages = json.loads(report.read_text()).get("stages")
    if not stages:
        print(f"{report} has no stages: name a run of a config with `stages`", file=sys.stderr)
        return 2
    title = "Each square is a file; its area is the number of bytes"
    path = argv[1] if len(argv) > 1 else Path(argv[0]) / "chain.png"
    for row in stages:
        print(
            f"{row['name']:24} {row['file_bytes']:>12,} bytes  {formats.percent(row['accuracy'])}"
        )
    print(canvas.save(draw_chain(stages, title=title), path))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
