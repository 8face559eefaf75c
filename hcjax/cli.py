"""The command line: flags in, exit code out. Parses, chooses what to do, and explains errors.

Exit codes: 0 done (or preempted and saved), 2 something the user can mend, with one message on
stderr. A traceback is a bug of ours.
"""

from __future__ import annotations

import re
import sys
import warnings
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from hcjax.errors import ConfigError, HcjaxError

_USAGE = """Trains, scores or plans a network.

  python launch.py --config=configs/lenet.py                     train, evaluate, report
  python launch.py --config=configs/lenet.py --config.seed=1     with a key of the config changed
  python launch.py --config=configs/lenet.py --seeds=5           five seeds, mean and std
  python launch.py --config=configs/lenet.py --sweep=optim.learning_rate=1e-3,3e-4
  python launch.py --config=configs/lenet.py --plan=v5e:2x4      compile for a TPU that is not here
  python launch.py --eval=runs/lenet-1a2b3c4d                    score a trained workdir
  python launch.py --predict=runs/lenet-1a2b3c4d a.png b.png     label image files
  python launch.py --config=configs/lenet.py --report_data       look at the data only

Every key of a config, with its meaning and range, is in configs/default.py."""


def _define(values: flags.FlagValues) -> None:
    """Defines the flags, which carry what is not part of a config."""

    def string(name, default, text):
        flags.DEFINE_string(name, default, text, flag_values=values)

    def integer(name, default, text):
        flags.DEFINE_integer(name, default, text, flag_values=values)

    config_flags.DEFINE_config_file(
        "config", None, "File with get_config().", lock_config=True, flag_values=values
    )
    string("workdir", None, "Folder of the run; by default runs/CONFIG-HASH.")
    integer("seeds", 0, "Repeat the run for so many seeds, from config.seed on.")
    flags.DEFINE_multi_string(
        "sweep", [], "KEY=V1,V2,...: run the grid over all such lists.", flag_values=values
    )
    string("eval", None, "Workdir to score; --config.data.* names another source.")
    string("predict", None, "Workdir that labels the image files given as arguments.")
    string("plan", None, "TPU topology, e.g. v5e:2x4, to compile the config's steps for.")
    flags.DEFINE_bool("report_data", False, "Only load and describe the data.", flag_values=values)
    flags.DEFINE_bool("quiet", False, "Print nothing but errors.", flag_values=values)
    flags.DEFINE_bool("help", False, "Show this text.", short_name="h", flag_values=values)
    flags.DEFINE_bool(
        "distributed", False, "Join the other hosts (found by jax, as on TPU pods).",
        flag_values=values,
    )  # fmt: skip
    string("coordinator", None, "host:port of process 0, to join the other hosts explicitly.")
    integer("num_processes", None, "Processes in all, with --coordinator.")
    integer("process_id", None, "Number of this process, with --coordinator.")
    integer("join_timeout", 300, "Seconds to wait for the other processes.")


def main(argv: list[str], *, started: float | None = None) -> int:
    """Returns the exit code of the command line.

    Args:
      argv: program name and arguments.
      started: `time.perf_counter()` when the process started.
    """
    values = flags.FlagValues()
    _define(values)
    warnings.showwarning = lambda text, *_, **__: print(f"warning: {text}", file=sys.stderr)
    try:
        arguments = _parse(values, argv)
        if values.help:
            print(
                f"{_USAGE}\n\nFlags:{values.module_help('hcjax.cli') or values.main_module_help()}"
            )
            return 0
        return _act(values, arguments[1:], started)
    except HcjaxError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        return 2
    except KeyboardInterrupt:
        print("interrupted; start the same command again to go on", file=sys.stderr)
        return 130


def _parse(values: flags.FlagValues, argv: list[str]) -> list[str]:
    """Returns the arguments that are no flags; what is wrong with them is a ConfigError."""
    try:
        return values(argv)
    except flags.Error as error:
        raise ConfigError(f"{error} (see --help)") from error
    except (
        AttributeError,
        KeyError,
        OSError,
        SyntaxError,
        ImportError,
        TypeError,
        ValueError,
    ) as error:
        text = str(error).strip("\"'").replace("\\n", "\n").replace("\\'", "'")
        unknown = re.search(r'Did you mean "(.*)" instead of "(.*)"', text)
        if unknown:
            raise ConfigError(
                f"unknown config key '{unknown[2]}'; did you mean '{unknown[1]}'? All keys are in "
                f"configs/default.py"
            ) from error
        raise ConfigError(f"cannot read the config: {' '.join(text.split())}") from error


def _act(values: flags.FlagValues, arguments: list[str], started: float | None) -> int:
    from hcjax import run, score, studies
    from hcjax.training import hosts

    if arguments and not values.predict:
        raise ConfigError(f"unexpected argument {arguments[0]!r}; flags begin with -- (see --help)")
    if values.distributed or values.coordinator:
        hosts.initialize(
            coordinator=values.coordinator,
            num_processes=values.num_processes,
            process_id=values.process_id,
            timeout_seconds=values.join_timeout,
        )
    if values.predict:
        return score.predict(values.predict, arguments)
    if values.eval:
        return score.evaluate(values.eval, values.config)
    if values.config is None:
        raise ConfigError("--config=configs/NAME.py is needed (see --help)")
    name = Path(re.split(r":", values["config"].config_filename)[0]).stem
    if values.report_data:
        return score.report_data(values.config)
    if values.plan:
        return run.plan(values.config, _workdir(values, name), values.plan)
    workdir = _workdir(values, name)
    if values.sweep:
        studies.sweep(values.config, workdir, values.sweep, quiet=values.quiet, started=started)
    elif values.seeds:
        studies.seeds(values.config, workdir, values.seeds, quiet=values.quiet, started=started)
    else:
        run.run(values.config, workdir, quiet=values.quiet, started=started)
    return 0


def _workdir(values: flags.FlagValues, name: str) -> Path:
    """Returns the folder asked for, or runs/CONFIG-HASH: the same command, the same folder."""
    from hcjax import config as configs

    if values.workdir:
        return Path(values.workdir)
    kind = "-sweep" if values.sweep else "-seeds" if values.seeds else ""
    return Path("runs") / f"{name}-{configs.fingerprint(values.config)}{kind}"
