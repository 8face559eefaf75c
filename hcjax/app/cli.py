"""The command line: flags in, exit code out. Parses, chooses what to do, and explains errors.

Exit codes: 0 done (or preempted and saved), 2 something the user can mend, with one message on
stderr. A traceback is a bug of ours.
"""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

from absl import flags

from hcjax.config import configfile
from hcjax.config.reader import fingerprint
from hcjax.devices import allocator
from hcjax.errors import ConfigError, HcjaxError

_USAGE = """Trains, scores or plans a network.

  python launch.py --config=configs/lenet.py                     train, evaluate, report
  python launch.py --config=configs/lenet.py --config.seed=1     with a key of the config changed
  python launch.py --config=configs/lenet.py --seeds=5           five seeds, mean and std
  python launch.py --config=configs/mnist_cnn.py --sweep=optim.learning_rate=1e-3,3e-4
  python launch.py --config=configs/lenet.py --plan=v5e:2x4      compile for a TPU that is not here
  python launch.py --config=configs/lenet.py --report_data       look at the data only
  python launch.py --eval=runs/lenet-1a2b3c4d                    score a trained workdir
  python launch.py --eval=runs/lenet-1a2b3c4d --config.data.source=npz --config.data.path=new.npz
  python launch.py --predict=runs/lenet-1a2b3c4d a.png b.png     label image files

The same command again goes on with a run that was cut, and prints the report of a finished one.
Every key of a config, with its meaning and range, is in configs/default.py; None unsets one.

Flags:"""
_MODES = ("eval", "predict", "plan", "report_data", "seeds", "sweep")


def _define(values: flags.FlagValues) -> None:
    """Defines the flags, which carry what is not part of a config."""

    def string(name, text):
        flags.DEFINE_string(name, None, text, flag_values=values)

    def integer(name, default, text):
        flags.DEFINE_integer(name, default, text, flag_values=values)

    def boolean(name, text):
        flags.DEFINE_bool(name, False, text, flag_values=values)

    string("config", "File with get_config(); --config.KEY=VALUE changes a key of it.")
    string("workdir", "Folder of the run; by default runs/CONFIG-HASH.")
    integer("seeds", None, "Repeat the run for so many seeds, from config.seed on.")
    flags.DEFINE_multi_string(
        "sweep", [], "KEY=V1,V2,...: run the grid over all such lists.", flag_values=values
    )
    string("eval", "Workdir to score; --config.data.KEY=VALUE names another source.")
    string("predict", "Workdir that labels the image files given as arguments.")
    string("plan", "TPU topology, e.g. v5e:2x4, to compile the config's steps for.")
    boolean("report_data", "Only load and describe the data.")
    boolean("profile", "Write a trace of 10 steps to WORKDIR/profile.")
    boolean("quiet", "Print nothing but errors, and the table of several runs.")
    boolean("distributed", "Join the other hosts (found by jax, as on TPU pods).")
    string("coordinator", "host:port of process 0, to join the other hosts explicitly.")
    integer("num_processes", None, "Processes in all, with --coordinator.")
    integer("process_id", None, "Number of this process, with --coordinator.")
    integer("join_timeout", 300, "Seconds to wait for the other processes.")


def main(argv: list[str], *, started: float | None = None) -> int:
    """Returns the exit code of the command line.

    Args:
      argv: program name and arguments.
      started: `time.perf_counter()` when the process started.
    """
    return ended(lambda: _act(*parse(argv, _define), started))


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
        found = re.fullmatch(r"--?config\.([^=]*)(=(.*))?", argument, re.DOTALL)
        if found is None:
            rest.append(argument)
            continue
        value = found[3] if found[2] else next(arguments, "--")
        if not found[2] and value.startswith("--"):
            raise ConfigError(f"{argument} needs a value: {argument}=VALUE")
        changes.append((found[1], value))
    values = flags.FlagValues()
    define(values)
    flags.DEFINE_bool("help", False, "Show this text.", short_name="h", flag_values=values)
    values.set_gnu_getopt(True)  # flags may follow arguments
    try:
        return values, values(rest)[1:], changes
    except flags.Error as error:
        raise ConfigError(f"{error} (see --help)") from error


def help_text(usage: str, values: flags.FlagValues) -> str:
    """Returns a command's usage with its flags.

    Args:
      usage: ends where the flags begin.
      values: of `parse`.
    """
    modules = values.flags_by_module_dict()  # by that which defines them, whose name says nothing
    lines = [line for name in modules for line in values.module_help(name).splitlines()]
    return "\n".join([usage, *(line for line in lines if line.startswith(" "))])


def _act(values, arguments: list[str], changes: list[tuple[str, str]], started) -> int:
    """Does the one thing that the flags say."""
    if values.help:
        print(help_text(_USAGE, values))
        return 0
    modes = [f"--{mode}" for mode in _MODES if values[mode].present]
    if len(modes) > 1:
        raise ConfigError(f"{' and '.join(modes)} cannot be combined; choose one")
    if arguments and not values.predict:
        raise ConfigError(f"unexpected argument {arguments[0]!r}; flags begin with -- (see --help)")
    config = None
    if values.config is not None:
        config = configfile.load(values.config)
    elif not values.eval and not values.predict:
        raise ConfigError("--config=configs/NAME.py is needed (see --help)")
    if config is not None:
        for change in changes:
            configfile.override(config, *change)
        if values.profile and not config.profile_steps:
            config.profile_steps = 10
    _join(values)

    from hcjax.devices import hosts

    with hosts.explained():  # another process may be lost at any time
        return _work(values, arguments, changes, config, started)


def _work(values, arguments: list[str], changes: list[tuple[str, str]], config, started) -> int:
    """Does what the flags say once all hosts are here."""
    from hcjax.app import run, score, studies

    if values.predict:
        return score.predict(values.predict, arguments, changes=changes)
    if values.eval:
        return score.evaluate(values.eval, config, changes=changes)
    if values.report_data:
        return score.report_data(config)
    workdir = Path(values.workdir) if values.workdir else _default_workdir(values, config)
    if values.plan:
        run.plan(config, workdir, values.plan)
    elif values.sweep:
        studies.sweep(config, workdir, values.sweep, quiet=values.quiet, started=started)
    elif values.seeds is not None:
        studies.seeds(config, workdir, values.seeds, quiet=values.quiet, started=started)
    else:
        run.run(config, workdir, quiet=values.quiet, started=started)
    return 0


def _join(values: flags.FlagValues) -> None:
    """Joins the other hosts, if there are any."""
    from hcjax.devices import hosts

    numbers = values.num_processes, values.process_id
    if numbers != (None, None) and not values.coordinator:
        raise ConfigError("--num_processes and --process_id need --coordinator=HOST:PORT")
    if values.distributed or values.coordinator:
        hosts.initialize(
            coordinator=values.coordinator,
            num_processes=values.num_processes,
            process_id=values.process_id,
            timeout_seconds=values.join_timeout,
        )


def _default_workdir(values: flags.FlagValues, config) -> Path:
    """Returns runs/CONFIG-HASH: the same command, the same folder."""
    kind = "-sweep" if values.sweep else "-seeds" if values.seeds is not None else ""
    return Path("runs") / f"{Path(values.config).stem}-{fingerprint(config)}{kind}"
