"""The command `hcjax`: its sub-commands, each a function of its own command line."""

from __future__ import annotations

import importlib
import sys
from typing import NamedTuple

from hcjax.app import command
from hcjax.errors import ConfigError, unknown_name
from hcjax.version import VERSION


class Command(NamedTuple):
    """One sub-command.

    module: whose `main` takes program name and arguments and returns the exit code; imported when
    it is asked for. does: what it does, in a line.
    """

    module: str
    does: str


# another sub-command is one more row
COMMANDS: dict[str, Command] = {
    "train": Command("hcjax.app.cli", "train, compress or plan what a config describes"),
    "predict": Command("hcjax.app.predict", "label image files with a trained or packed network"),
    "verify": Command("hcjax.app.verify", "score networks, or run exports, on their own test sets"),
    "compare": Command("hcjax.app.compare", "put networks side by side, and list what changed"),
    "export": Command("hcjax.app.exporting", "write a network as files that other programs run"),
    "serve": Command("hcjax.app.serving", "answer requests for networks over HTTP, with a page"),
}


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code of the command line `hcjax COMMAND ...`.

    Args:
      argv: program name and arguments; None for those of this process.
    """
    program, *rest = ["hcjax", *sys.argv[1:]] if argv is None else argv
    if rest and rest[0] in COMMANDS:
        module = importlib.import_module(COMMANDS[rest[0]].module)
        return module.main([f"{program} {rest[0]}", *rest[1:]])
    return command.ended(lambda: _about(program, rest))


def _about(program: str, rest: list[str]) -> int:
    """Prints what there is, where no sub-command is named."""
    first = rest[0] if rest else ""
    if first in ("--help", "-h", "-help", "help"):
        print(f"usage: {program} COMMAND ..., each with --help\n")
        width = max(map(len, COMMANDS))
        print("\n".join(f"  {name:{width}}  {each.does}" for name, each in COMMANDS.items()))
        return 0
    if first == "--version":
        print(VERSION)
        return 0
    if not first or first.startswith("-"):
        hint = f": `{program} train {first}`?" if first else ""
        raise ConfigError(f"name a command first: {', '.join(COMMANDS)}{hint} (see --help)")
    raise ConfigError(f"{unknown_name('command', first, COMMANDS)} (see --help)")
