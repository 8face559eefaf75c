"""The command line: flags in, exit code out. Parses, chooses what to do, and explains errors.

Exit codes: 0 done (or preempted and saved), 2 something the user can mend, with one message on
stderr. A traceback is a bug of ours.
"""

from __future__ import annotations

from pathlib import Path

from absl import flags

from hcjax.app import command, predict
from hcjax.config import configfile, shipped
from hcjax.config.reader import fingerprint
from hcjax.errors import ConfigError

_USAGE = """Trains, scores or plans a network.

  PROGRAM --config=configs/lenet.py                     train, evaluate, report
  PROGRAM --config=configs/lenet.py --config.seed=1     with a key of the config changed
  PROGRAM --config=configs/lenet.py --seeds=5           five seeds, mean and std
  PROGRAM --config=configs/mnist_cnn.py --sweep=optim.learning_rate=1e-3,3e-4
  PROGRAM --config=configs/lenet.py --plan=v5e:2x4      compile for a TPU that is not here
  PROGRAM --config=configs/lenet.py --report_data       look at the data only
  PROGRAM --eval=runs/lenet-1a2b3c4d                    score a trained workdir
  PROGRAM --eval=runs/lenet --config.data.source=npz --config.data.path=new.npz
  PROGRAM --predict=runs/lenet-1a2b3c4d a.png folder    label image files; also model.hcz

The same command again goes on with a run that was cut, and prints the report of a finished one.
Every key of a config, with its meaning and range, is in KEYS;
None unsets one. The configs of configs/ come with hcjax, whatever the current folder.

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
    string("predict", "Workdir or .hcz file that labels the images given as arguments.")
    predict.define(values)
    string("plan", "TPU topology, e.g. v5e:2x4, to compile the config's steps for, without data.")
    boolean("plan_quick", "With --plan: a first answer: the two steps, less searched for.")
    string("plan_data", "With --plan: HxWxC:K, images and classes of unknown data.")
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
    usage = _USAGE.replace("KEYS", shipped.keys())
    return command.run(argv, usage, _define, lambda *flags: _act(*flags, started))


def _act(values, arguments: list[str], changes: list[tuple[str, str]], started) -> int:
    """Does the one thing that the flags say."""
    modes = [f"--{mode}" for mode in _MODES if values[mode].present]
    if len(modes) > 1:
        raise ConfigError(f"{' and '.join(modes)} cannot be combined; choose one")
    for flag in ("plan_quick", "plan_data"):
        if values[flag].present and not values.plan:
            raise ConfigError(f"--{flag} needs --plan=TOPOLOGY, e.g. --plan=v5e:2x4")
    if arguments and not values.predict:
        raise ConfigError(f"unexpected argument {arguments[0]!r}; flags begin with -- (see --help)")
    if not values.predict and (values["top_k"].present or values["json"].present):
        raise ConfigError("--top_k and --json say how --predict shows its labels (see --help)")
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
    from hcjax.app import planning, run, score, studies

    if values.predict:
        shown = {"top_k": values.top_k, "json": values.json}
        return predict.predict(values.predict, arguments, **shown, changes=changes)
    if values.eval:
        return score.evaluate(values.eval, config, changes=changes)
    if values.report_data:
        return score.report_data(config)
    workdir = Path(values.workdir) if values.workdir else _default_workdir(values, config)
    if values.plan:
        options = {"shape": values.plan_data, "quick": values.plan_quick}
        planning.plan(config, workdir, values.plan, **options)
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
