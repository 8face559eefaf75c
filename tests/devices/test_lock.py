"""One run in a workdir at a time, by name, until its process ends."""

import json
import os
import shutil
import subprocess
import sys

import pytest

import hcjax
from hcjax.devices import lock
from hcjax.errors import CheckpointError
from tests.tiny import ROOT, flags, folder, launch, npz, trained

HOLDING = """
import sys, time
from pathlib import Path
from hcjax.devices import lock
with lock.held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_run_is_refused_with_the_number_of_the_first_until_it_is_killed(tmp_path):
    program = subprocess.Popen(
        [sys.executable, "-c", HOLDING, tmp_path], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    try:
        assert program.stdout.readline() == "held\n"
        refusal = rf"another process \({program.pid}\) is training in .*--workdir"
        with pytest.raises(CheckpointError, match=refusal), lock.held(tmp_path):
            pass
    finally:
        program.kill()
        program.communicate()
    with lock.held(tmp_path):
        assert (tmp_path / lock.LOCK).read_text() == str(os.getpid())


def test_a_run_in_use_is_neither_trained_nor_claimed_but_can_be_loaded(tmp_path, capsys):
    workdir = shutil.copytree(trained(), tmp_path / "run")
    (workdir / "report.json").unlink()  # not finished
    shutil.rmtree(workdir / "checkpoints" / "4")
    command = [*flags(npz(folder() / "data.npz")), f"--workdir={workdir}", "--quiet"]
    config = (workdir / "config.json").read_bytes()
    with lock.held(workdir):
        capsys.readouterr()
        assert launch(*command) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and f"another process ({os.getpid()}) is training" in err
        assert (workdir / "config.json").read_bytes() == config
        assert hcjax.load(workdir).step == 2
    assert launch(*command) == 0
    report = json.loads((workdir / "report.json").read_text())
    assert (
        report["params_sha256"]
        == json.loads((trained() / "report.json").read_text())["params_sha256"]
    )


def test_a_system_without_locks_lets_everyone_in(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "fcntl", None)
    with lock.held(tmp_path), lock.held(tmp_path):
        assert list(tmp_path.iterdir()) == []


def test_every_process_hears_that_the_first_was_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("jax.process_index", lambda: 1)
    monkeypatch.setattr(lock.hosts, "gather", lambda ours: [77, ours])
    with pytest.raises(CheckpointError, match=r"another process \(77\)"), lock.held(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []
