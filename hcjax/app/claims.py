"""Whose workdir it is: the config of its run, compared with the one that is asked for."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import jax

from hcjax.config.reader import differences
from hcjax.core import files
from hcjax.devices import environment, hosts, lock
from hcjax.errors import CheckpointError
from hcjax.runs.workdir import CHECKPOINTS, CONFIG, REPORT, RUN, read_json


def finished(workdir: Path, config: dict) -> dict | None:
    """Returns the report of this config's finished run, None if there is none yet.

    Raises:
      CheckpointError: if the workdir holds a run of another config that has come to a
        checkpoint, a stage or a report, naming the keys that differ, if its files are damaged, or
        if not every process sees the same there.
    """
    path, report = workdir / CONFIG, workdir / REPORT
    folder = workdir / CHECKPOINTS
    saved = any(workdir.glob("*.hcz")) or any(p.name.isdigit() for p in folder.glob("*"))
    state = 2 if report.exists() else int(saved)
    sights = "sees no run", "sees an unfinished one", "sees a report"
    hosts.check_same(workdir, state, sights.__getitem__)
    if state and not path.exists():
        raise CheckpointError(f"{workdir} holds a run but no {CONFIG}; choose another --workdir")
    differ = differences(config, read_json(path)) if state else {}
    if differ:
        lines = [
            f"config.{k} is {there!r} there, {here!r} here" for k, (here, there) in differ.items()
        ]
        raise CheckpointError(
            f"{workdir} holds a run of another config: {'; '.join(sorted(lines))}. Choose another "
            f"--workdir, or give the same config to go on with that run"
        )
    return read_json(report) if state == 2 else None


def claim(workdir: Path, config: dict, *, command: Sequence[str] = ()) -> None:
    """Writes down whose workdir this is: the config, and how and by what it was first started.

    Args:
      workdir: for which `finished` returned None.
      config: as nested dicts.
      command: the command line, for whoever reads run.json.

    Raises:
      CheckpointError: if it cannot be written, or if another process is training there.

    Note:
      Warns where an earlier launch had other versions: the run goes on, but its bits may differ
      from those of an uninterrupted one.
    """
    facts = {
        "seed": config["seed"],
        "command": list(command),
        "git_commit": environment.git_commit(),
    }
    facts |= {"device": environment.device(), "versions": environment.versions()}
    with lock.held(workdir):
        path, owner = workdir / RUN, workdir / CONFIG
        begun = path.exists() and owner.exists()
        if begun and not differences(config, read_json(owner)):
            before, now = read_json(path).get("versions", {}), facts["versions"]
            changed = [f"{k} {before.get(k)} -> {now[k]}" for k in now if before.get(k) != now[k]]
            if changed:
                text = f"{workdir} was begun with other versions: {', '.join(changed)}"
                warnings.warn(text, stacklevel=2)
        elif jax.process_index() == 0:
            files.write_json(path, facts)
        if jax.process_index() == 0:
            files.write_json(owner, config)
