"""Runs the tutorials and writes each as a page of the site, with its tables and pictures.

Command: python docs/notebooks.py [--steps N] [--jobs N] [NAME ...]

In: `docs/notebooks/*.py`, notebooks as text (jupytext, percent). Out, beside them and not
committed: `NAME.md`, and `NAME_1.png`, ... for its pictures. Needs the extra `docs`. A cell that
fails ends everything with its traceback and exit code 1. NAME runs only that one; `--jobs` runs so
many at once; `--steps` trains for so few steps that it shows no more than that the code runs.
"""

from __future__ import annotations

import argparse
import base64
import html
import re
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent / "notebooks"
SECONDS = 600  # for one cell, at most
_LINK = re.compile(r"\]\((\d_\w+)\.py\)")  # to another tutorial
_STEPS = re.compile(r"^STEPS = .*$", flags=re.M)


def sources() -> list[Path]:
    """Returns the files of the tutorials, in their order."""
    return sorted(FOLDER.glob("[0-9]_*.py"))


def executed(path: Path, *, steps: int | None = None) -> Any:
    """Runs a notebook in a kernel of its own and returns it with its outputs.

    Args:
      path: of the text.
      steps: number in place of its `STEPS`; None for its own.

    Raises:
      nbclient.exceptions.CellExecutionError: if a cell fails.
    """
    import jupytext
    from nbclient import NotebookClient

    text = path.read_text("utf-8")
    if steps is not None:
        text = _STEPS.sub(f"STEPS = {steps}", text)
    notebook = jupytext.reads(text, fmt="py:percent")
    client = NotebookClient(
        notebook, timeout=SECONDS, kernel_name="python3", extra_arguments=["--log-level=ERROR"],
        resources={"metadata": {"path": str(FOLDER)}},
    )  # fmt: skip
    client.execute()
    return notebook


def page(notebook: Any, name: str) -> tuple[str, dict[str, bytes]]:
    """Returns an executed notebook as Markdown, and its pictures.

    Args:
      notebook: with outputs.
      name: that the files of its pictures begin with.

    Returns:
      (text, file name -> bytes).
    """
    parts, pictures = [], {}
    heading = name
    for cell in notebook.cells:
        if cell.cell_type != "code":
            parts.append(_LINK.sub(r"](\1.md)", cell.source))
            if heads := re.findall(r"^#+ (.*)$", cell.source, flags=re.M):
                heading = heads[-1]
            continue
        parts.append(f"```python\n{cell.source.replace('  # fmt: skip', '')}\n```")
        for output in cell.outputs:
            data = output.get("data", {})
            if "image/png" in data:
                file = f"{name}_{len(pictures) + 1}.png"
                pictures[file] = base64.b64decode(data["image/png"])
                parts.append(f"![{html.escape(heading)}]({file})")
            elif "text/html" in data:
                parts.append(f'<div class="output">{data["text/html"]}</div>')
            elif words := output.get("text", data.get("text/plain", "")).rstrip():
                parts.append(f"``` {{.text .output}}\n{words}\n```")
    source = f"[This page as a notebook]({name}.py), to run and to change."
    return "\n\n".join([*parts, source]) + "\n", pictures


def write(path: Path, *, steps: int | None = None) -> float:
    """Runs a notebook, writes its page beside it, and returns the seconds that it took."""
    begun = time.perf_counter()
    text, pictures = page(executed(path, steps=steps), path.stem)
    for old in FOLDER.glob(f"{path.stem}_*.png"):
        old.unlink()
    for file, data in pictures.items():
        (FOLDER / file).write_bytes(data)
    path.with_suffix(".md").write_text(text, "utf-8")
    return time.perf_counter() - begun


def main(argv: Sequence[str]) -> int:
    """Runs the command line and returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="e.g. 1_lenet; all, if none")
    parser.add_argument("--steps", type=int, help="of each training")
    parser.add_argument("--jobs", type=int, default=1, help="tutorials at once")
    options = parser.parse_args(argv)
    paths = {path.stem: path for path in sources()}
    if unknown := set(options.names) - set(paths):
        parser.error(f"no tutorial {', '.join(sorted(unknown))}; there are {', '.join(paths)}")
    begun, names = time.perf_counter(), options.names or list(paths)
    with ThreadPoolExecutor(max(options.jobs, 1)) as pool:  # a kernel is a process of its own
        made = pool.map(lambda name: write(paths[name], steps=options.steps), names)
        for name, seconds in zip(names, made, strict=True):
            print(f"{name:20} {seconds:6.1f} s", flush=True)
    print(f"{'together':20} {time.perf_counter() - begun:6.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
