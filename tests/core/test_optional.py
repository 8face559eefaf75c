"""Packages that only some uses need, and the lists of those that every run needs."""

import importlib.util
import re
import sys
import tomllib

import pytest

from hcjax.core import optional
from hcjax.data.sources import tfds
from hcjax.errors import DependencyError, HcjaxError
from tests.tiny import ROOT, flags, launch

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def test_a_package_that_lacks_is_named_with_the_extra_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(DependencyError, match="source tfds needs the package tensorflow_datasets"):
        tfds.load("cifar10")
    for kind in (HcjaxError, ImportError):  # whoever tries an import catches it, too
        with pytest.raises(kind, match=r"pip install 'hcjax\[tfds\]'"):
            tfds.load("cifar10")
    with pytest.raises(DependencyError, match="needs the package no_such_package"):
        optional.require("no_such_package", extra="tpu", what="this")


def test_a_package_whose_own_need_lacks_names_that(monkeypatch, tmp_path):
    (tmp_path / "broken_package.py").write_text("import no_such_package.part")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DependencyError, match="needs the package no_such_package, which"):
        optional.module("broken_package", extra="tfds", what="this")


def test_the_command_line_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    keys = ["--config.data.source=tfds", "--config.data.name=cifar10", "--config.data.path=None"]
    assert launch(*flags("x.npz"), *keys, "--report_data") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: source tfds needs") and "'hcjax[tfds]'" in error


@pytest.mark.skipif(importlib.util.find_spec("gcsfs") is not None, reason="it is installed")
def test_a_bucket_needs_the_package_that_reads_it():
    with pytest.raises(DependencyError, match=r"to read gs://a/b, needs .*'hcjax\[gcs\]'"):
        tfds.load("cifar10", "gs://a/b")


def test_every_extra_that_is_named_exists():
    text = "".join(path.read_text() for path in (ROOT / "hcjax").rglob("*.py"))
    assert set(re.findall(r'extra="(\w+)"', text)) - {"none"} <= set(EXTRAS)


def test_requirements_are_those_of_the_package_with_tfds_and_pytest():
    """What the README's first command installs runs its recipes; a wheel needs less."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    listed = {line.partition("#")[0].strip() for line in lines} - {""}
    (pytest_line,) = [each for each in EXTRAS["test"] if each.startswith("pytest>")]
    assert listed == {*PROJECT["dependencies"], *EXTRAS["tfds"], pytest_line}
    (others,) = [each for each in EXTRAS["test"] if each.startswith("hcjax[")]
    assert "tfds" in others.removeprefix("hcjax[").removesuffix("]").split(",")
    needed = " ".join(PROJECT["dependencies"])
    assert "pytest" not in needed and "tensorflow" not in needed
