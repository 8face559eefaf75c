"""The command `hcjax`: its sub-commands, their help, and what is said of a wrong one."""

import importlib
import runpy
import sys

import pytest

from hcjax.app import commands
from hcjax.version import VERSION
from tests.tiny import launch


def said(capsys, *arguments):
    capsys.readouterr()
    code = commands.main(["hcjax", *map(str, arguments)])
    output = capsys.readouterr()
    return code, output.out, output.err


def test_help_lists_every_sub_command_and_each_has_its_own(capsys):
    code, text, _ = said(capsys, "--help")
    assert code == 0 and all(f"  {name} " in text for name in commands.COMMANDS)
    assert said(capsys, "help")[:2] == (0, text)
    for name, each in commands.COMMANDS.items():
        assert importlib.import_module(each.module).main
        code, text, _ = said(capsys, name, "--help")
        assert code == 0 and f"  hcjax {name} " in text and "PROGRAM" not in text
        assert all(len(line) <= 100 for line in text.splitlines())
    assert said(capsys, "--version")[:2] == (0, f"{VERSION}\n")


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_help_fits_a_terminal_under_the_longest_name_of_the_program(name, capsys):
    """`python -m hcjax verify` is wider than `hcjax verify`."""
    commands.main(["python -m hcjax", name, "--help"])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 100


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "name a command first: train, predict, verify, compare"),
        (["--config=configs/lenet.py"], "`hcjax train --config=configs/lenet.py`?"),
        (["trian"], "unknown command 'trian'; did you mean 'train'?"),
        (["verfy", "a.hcz"], "did you mean 'verify'?"),
        (["train"], "--config=configs/NAME.py is needed"),
        (["verify", "--jsn=1"], "Did you mean: json"),
    ],
)
def test_a_wrong_command_is_one_message(capsys, arguments, expected):
    code, out, err = said(capsys, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1) and expected in err


def test_train_is_what_launch_does(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = ["--config=configs/lenet.py", "--config.data.limit=5", "--report_data"]
    code, text, _ = said(capsys, "train", *flags)
    assert code == 0 and launch(*flags) == 0
    assert capsys.readouterr().out == text and "train 5" in text


def test_the_package_runs_as_a_module(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["__main__.py", "verify", "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("hcjax", run_name="__main__")
    assert ended.value.code == 0
    assert "  python -m hcjax verify model.hcz" in capsys.readouterr().out
