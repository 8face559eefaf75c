"""Networks as C on boards that QEMU plays: their bits, and the bytes that they take.

    python benchmarks/boards.py SOURCE       a workdir or a .hcz file, on images of its test set
    python benchmarks/boards.py              a LeNet-5 with random parameters and images

Cortex-M4F (mps2-an386), Cortex-M55 (mps3-an547), 64-bit Arm with NEON, without and with dot
products, and x86-64 without more than every one has, on this machine. Each computes 8 examples; the
bits of its outputs are compared with those of the network in jax. QEMU says nothing about time. A
board whose tools are not here is left out with a line; Debian has them in gcc-arm-none-eabi,
libnewlib-arm-none-eabi, qemu-system-arm, gcc-aarch64-linux-gnu and qemu-user.

In the table, in bytes: code and constants of the network's object file; library: what the C library
adds to them (rounding, copying) where no system has it; arena: a context; stack: the deepest that a
call has reached. The inputs and outputs are the caller's.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np

import hcjax
from hcjax.app import exporting, scoring
from hcjax.core import text
from hcjax.export import examples
from hcjax.export.c import c
from hcjax.export.c.source import WEIGHTS
from hcjax.export.c.writer import TYPES, number
from hcjax.runs import saved

HERE = Path(__file__).parent / "boards"
COUNT = 8
FLAGS = ("-std=c11", "-ffp-contract=off")
STRICT = ("-Wall", "-Wextra", "-Wconversion", "-Werror")
SECTIONS = ("-ffunction-sections", "-fdata-sections", "-Wl,--gc-sections")
CORTEX = ("-mthumb", "-mfloat-abi=hard")
ALONE = ("-nostdlib", "-static", "-Wl,-e,network_run", "-lm", "-lc", "-lgcc")
SEMIHOSTING = ("-nographic", "-semihosting-config", "enable=on,target=native", "-kernel")


class Board(NamedTuple):
    """A processor. prefix: of its compiler's tools. runner: what runs a program. flags: of the
    compiler. linked: files and flags of a whole program. bare: whether it has no
    system, and so no C library but what is linked.
    """

    prefix: str
    runner: tuple[str, ...]
    flags: tuple[str, ...]
    linked: tuple[str, ...] = ()
    bare: bool = False

    def missing(self) -> list[str]:
        """Returns the tools that are not here."""
        if not self.prefix and platform.machine() != "x86_64":
            return ["an x86-64"]
        tools = [f"{self.prefix}gcc", f"{self.prefix}size", *self.runner[:1]]
        return [tool for tool in tools if shutil.which(tool) is None]


def _cortex(machine: str, script: str, *flags: str) -> Board:
    linked = (
        str(HERE / "boot.c"),
        "-nostartfiles",
        "-specs=rdimon.specs",
        "-T",
        str(HERE / script),
    )
    runner = ("qemu-system-arm", "-M", machine, *SEMIHOSTING)
    return Board("arm-none-eabi-", runner, (*CORTEX, *flags), linked, True)


def _arm(*flags: str) -> Board:
    return Board("aarch64-linux-gnu-", ("qemu-aarch64",), flags, ("-static",))


BOARDS = {
    "Cortex-M4F": _cortex("mps2-an386", "mps2.ld", "-mcpu=cortex-m4", "-mfpu=fpv4-sp-d16"),
    "Cortex-M55": _cortex("mps3-an547", "mps3.ld", "-mcpu=cortex-m55"),
    "Arm, NEON": _arm("-march=armv8-a"),
    "Arm, dot products": _arm("-march=armv8.2-a+dotprod"),
    "x86-64": Board("", (), ()),
}


class Row(NamedTuple):
    """What a board does. equal: examples with the same bits. The rest are bytes, see above."""

    equal: int
    code: int
    constants: int
    library: int | None
    arena: int
    stack: int


def sources(
    model: hcjax.Model, inputs: Sequence[np.ndarray], weights: str = "plain"
) -> tuple[dict[str, str], int]:
    """Returns (name -> text, with `examples.h`, which holds the inputs; bytes of a context).

    Args:
      model: as of `hcjax.export.c`.
      inputs: flat, the first axis that of the examples where there is one.
    """
    found, lines, arguments = c(model, weights=weights), [], []
    for i, (x, leaf) in enumerate(zip(inputs, jax.tree.leaves(model.inputs), strict=True)):
        words = map(number, x.ravel()) if x.dtype == np.float32 else map(str, x.ravel().astype(int))
        name = f"given{i}[n]" if leaf.batched else f"given{i}[0]"
        size = f"[{len(x) if leaf.batched else 1}][{math.prod(leaf.shape)}]"
        lines.append(
            f"static const {TYPES[leaf.dtype.name]} given{i}{size} = {{{', '.join(words)}}};"
        )
        arguments.append(name)
    lines.append("static struct {")
    for name, dtype, shape in _outputs(model).descr:
        if name:
            lines.append(f"  {TYPES[np.dtype(dtype).name]} {name}[{math.prod(shape)}];")
            arguments.append(f"outputs.{name}")
    lines += ["} outputs;", f"#define EXAMPLES {COUNT}"]
    lines.append(f"#define RUN(n) network_run(&context, {', '.join(arguments)})")
    files = found.files | {"examples.h": "\n".join(["#include <math.h>", *lines, ""])}
    return files, found.memory + 64


def _outputs(model: hcjax.Model) -> np.dtype:
    """Returns the outputs of one example as C lays them out."""
    leaves = jax.tree.leaves(model.outputs)
    return np.dtype([(f"made{i}", x.dtype, x.shape) for i, x in enumerate(leaves)], align=True)


def run(
    board: Board,
    model: hcjax.Model,
    given: examples.Examples,
    level: str = "-Os",
    weights: str = "plain",
) -> Row:
    """Builds a network for a board, runs it on examples, and measures it.

    Args:
      board: whose tools are here.
      model: as of `hcjax.export.c`.
      given: inputs, and the outputs that are expected.
      level: of optimisation. weights: as of `hcjax.export.c`.

    Raises:
      RuntimeError: if a tool fails; with what it said.
    """
    with tempfile.TemporaryDirectory(prefix="hcjax-board-") as folder:
        files, arena = sources(model, given.inputs, weights)
        for name, content in files.items():
            (Path(folder) / name).write_text(content)
        compiler = (f"{board.prefix}gcc", *FLAGS, level, *board.flags, *SECTIONS)
        _call(folder, *compiler, *STRICT, "-c", "network.c")
        _call(folder, *compiler, "-c", str(HERE / "main.c"), "-I.")
        _call(folder, *compiler, "network.o", "main.o", *board.linked, "-lm", "-o", "whole")
        size = (f"{board.prefix}size", "-A")
        code, constants = _sections(_call(folder, *size, "network.o"))
        library = None
        if board.bare:
            _call(folder, *compiler, "network.o", *ALONE, "-o", "alone")
            library = sum(_sections(_call(folder, *size, "alone"))) - code - constants
        *lines, stack = _call(folder, *board.runner, "./whole").split("\n")[: COUNT + 1]
    made = np.frombuffer(bytes.fromhex("".join(lines)), _outputs(model))
    same = [
        (made[f"made{i}"][n].tobytes() == x[n].tobytes())
        for n in range(COUNT)
        for i, x in enumerate(given.outputs)
    ]
    equal = int(np.reshape(same, (COUNT, -1)).all(1).sum())
    return Row(equal, code, constants, library, arena, int(stack.split()[1]))


def _call(folder: str, *command: str) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}{done.stderr:.2000}")
    return done.stdout


def _sections(listed: str) -> tuple[int, int]:
    """Returns the bytes of code, and of numbers, of what `size -A` lists."""
    found = re.findall(r"^\.(text|rodata|data|eh_frame|got)\S*\s+(\d+)", listed, re.M)
    code = sum(int(size) for kind, size in found if kind == "text")
    return code, sum(int(size) for _, size in found) - code


def network(source: str | None) -> tuple[hcjax.Model, examples.Examples]:
    """Returns a network, and examples: of its test set, or drawn where no network is named."""
    if source is None:
        made = hcjax.models.create("lenet5", input_shape=(28, 28, 1))
        params, state = made.init(jax.random.key(0))
        images = np.random.default_rng(0).uniform(0, 1, (64, 28, 28, 1)).astype(np.float32)
        model = hcjax.fold(hcjax.trace(hcjax.inference(made.apply, state), params, images[:1]))
        model = hcjax.int8(model, hcjax.calibrate(model, images))
        return model, examples.of(model, images, count=COUNT)
    path = saved.alone(source)
    model, _ = saved.load_any(path)
    dataset = scoring.dataset_of(path, model, None, ())
    inputs, _ = exporting.test_of(dataset, model.about, count=COUNT)
    return model, examples.of(model, inputs, count=COUNT)


def main(argv: Sequence[str] | None = None) -> int:
    """Prints a table; returns 1 if a board has other bits."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("source", nargs="?", help="a workdir or a .hcz file")
    parser.add_argument("--weights", default="plain", choices=WEIGHTS, help="how C holds them")
    parser.add_argument("--levels", default="-Os,-O3", help="of optimisation")
    options = parser.parse_args(argv)
    here = {}
    for name, board in BOARDS.items():
        if missing := board.missing():
            print(f"{name}: left out, {', '.join(missing)} not found")
        else:
            here[name] = board
    if not here:
        return 0
    model, given = network(options.source)
    rows, right = [], True
    for name, board in here.items():
        for level in options.levels.split(","):
            row = run(board, model, given, level, options.weights)
            right = right and row.equal == COUNT
            sizes = [None if n is None else f"{n:,}" for n in row[1:]]
            rows.append((name, level, f"{row.equal} of {COUNT}", *sizes))
    heads = ("board", "built", "equal bits", *(name for name in Row._fields[1:]))
    print(text.table(rows, heads))
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
