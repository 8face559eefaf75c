"""What all command lines share: flags and changed keys in, an exit code and one message out.

Exit codes: 0 done (or preempted and saved), 2 something the user can mend, with one message on
stderr. A traceback is a bug of ours.
"""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from absl import flags

from hcjax.config import configfile
from hcjax.config.keys import did_you_mean
from hcjax.config.reader import flatten, to_dict
from hcjax.devices import allocator
from hcjax.errors import ConfigError, HcjaxError

_COLUMNS = 100  # of help texts


def ended(act: Callable[[], int]) -> int:
    """Returns the exit code of a command: its own, or 2 after one message of what can be mended.

    Args:
      act: does the command's work.
    """
    with warnings.catch_warnings():
        warnings.showwarning = lambda text, *_, **__: print(f"warning: {text}", file=sys.stderr)
        allocator.keep_memory()
        try:
            code = act()
            sys.stdout.flush()
            return code
        except HcjaxError as error:
            message = str(error)
        except BrokenPipeError:  # whoever reads what we print has left, e.g. `| head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 2
        except OSError as error:  # of a file that nobody below explained
            if error.filename is None:
                raise
            message = f"{error.filename}: {error.strerror}"
        except KeyboardInterrupt:
            print("interrupted; start the same command again to go on", file=sys.stderr)
            return 130
        except Exception as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            message = f"the device is out of memory: try a smaller batch. {str(error)[:300]}"
    print(f"error: {message}", file=sys.stderr)
    return 2


def run(
    argv: list[str],
    usage: str,
    define: Callable[[flags.FlagValues], None],
    act: Callable[[flags.FlagValues, list[str], list[tuple[str, str]]], int],
) -> int:
    """Returns the exit code of a command line, which may ask for help alone.

    Args:
      argv: program name and arguments.
      usage: of `help_text`.
      define: adds the command's flags.
      act: does its work, from what `parse` returns.
    """

    def helped_or_done() -> int:
        values, arguments, changes = parse(argv, define)
        if values.help:
            print(help_text(usage, values, program_of(argv)))
            return 0
        return act(values, arguments, changes)

    return ended(helped_or_done)


def named_problems(rows: Sequence[Mapping]) -> int:
    """Returns the exit code of a command after saying which files it could not use.

    Args:
      rows: one of each file; those that could not be used have a "problem", which says why.
    """
    problems = [row["problem"] for row in rows if "problem" in row]
    for text in problems:
        print(f"error: {text}", file=sys.stderr)
    return 2 if problems else 0


def parse(
    argv: list[str], define: Callable[[flags.FlagValues], None]
) -> tuple[flags.FlagValues, list[str], list[tuple[str, str]]]:
    """Returns flags, arguments that are no flags, and changed keys with their values.

    Args:
      argv: program name and arguments.
      define: adds a command's flags, to which `--help` comes.

    Raises:
      ConfigError: if a flag is unknown, or has no legal value.
    """
    rest, changes, arguments = [], [], iter(argv)
    for argument in arguments:
        match = re.fullmatch(r"--?config\.([^=]*)(=(.*))?", argument, re.DOTALL)
        if match is None:
            rest.append(argument)
            continue
        value = match[3] if match[2] else next(arguments, "--")
        if not match[2] and value.startswith("--"):
            raise ConfigError(f"{argument} needs a value: {argument}=VALUE")
        changes.append((match[1], value))
    values = flags.FlagValues()
    define(values)
    flags.DEFINE_bool("help", False, "Show this text.", short_name="h", flag_values=values)
    values.set_gnu_getopt(True)  # flags may follow arguments
    try:
        return values, values(rest)[1:], changes
    except flags.UnrecognizedFlagError as error:
        known = flatten(to_dict(configfile.load("configs/default.py")))
        near = did_you_mean(error.flagname, known).replace(" config.", " --config.")
        hint = near if "Did you mean" not in str(error) else ""
        raise ConfigError(f"{error}{hint} (see --help)") from error
    except flags.Error as error:
        raise ConfigError(f"{error} (see --help)") from error


def program_of(argv: list[str]) -> str:
    """Returns what a user types to start this program, for its help.

    Args:
      argv: whose first is "hcjax train", or the path of launch.py or of a door of the package.

    Example:
      >>> program_of(["/tmp/launch.py"]), program_of(["/a/hcjax/verify.py"])
      ('python launch.py', 'python -m hcjax.verify')
      >>> program_of(["hcjax train"])
      'hcjax train'
    """
    path = Path(argv[0])
    if path.suffix != ".py":
        return argv[0]
    door = path.parent.name == "hcjax"
    return f"python -m hcjax.{path.stem}" if door else f"python {path.name}"


def help_text(usage: str, values: flags.FlagValues, program: str) -> str:
    """Returns a command's usage with its flags.

    Args:
      usage: ends where the flags begin; PROGRAM in it stands for what the user types.
      values: of `parse`.
      program: that, e.g. "hcjax train".
    """
    usage = "\n".join(_named(line, program) for line in usage.splitlines())
    modules = values.flags_by_module_dict()  # by that which defines them, whose name says nothing
    lines = [line for name in modules for line in values.module_help(name).splitlines()]
    return "\n".join([usage, *(line for line in lines if line.startswith(" "))])


def _named(line: str, program: str) -> str:
    """A line of a usage; of an example too long for a terminal, what it does goes below it."""
    text = line.replace("PROGRAM", program)
    if len(text) <= _COLUMNS:
        return text
    example, _, does = text.partition("   ")
    return f"{example}\n      {does.strip()}" if does.strip() else text
