"""Loading the TPU compiler: alone and quiet. Nothing here loads it."""

import fcntl
import os
import threading
from importlib import metadata, util

import pytest

from hcjax.devices import libtpu
from hcjax.errors import DependencyError


def installed(monkeypatch, found, *requires):
    """Makes that libtpu look installed, beside a jax 0.10.2 with these requirements."""

    def version(name):
        if name == "jax":
            return "0.10.2"
        if found is None:
            raise metadata.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(util, "find_spec", lambda name: object())
    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(metadata, "requires", lambda name: list(requires))


PIN = ("numpy>=2.0", 'requests; extra == "tpu"', 'libtpu==0.0.42.*; extra == "tpu"')


@pytest.mark.parametrize("found", ["0.0.52", "0.0.4", "0.0.41.9", "0.0.43.dev20260101", None])
def test_a_libtpu_that_jax_was_not_made_for_is_refused_with_the_cure(monkeypatch, found):
    installed(monkeypatch, found, *PIN)
    with pytest.raises(DependencyError) as caught:
        libtpu.version()
    text = str(caught.value)
    assert (found or "of no known release") in text
    assert "libtpu==0.0.42.*" in text and "jax 0.10.2" in text
    assert text.endswith("pip install 'jax[tpu]==0.10.2'")


@pytest.mark.parametrize("found", ["0.0.42", "0.0.42.1", "0.0.42.dev1"])
def test_the_libtpu_that_jax_pins_is_taken(monkeypatch, found):
    installed(monkeypatch, found, *PIN)
    assert libtpu.version() == found


def test_a_jax_that_pins_none_takes_any(monkeypatch):
    installed(monkeypatch, "0.0.52", 'libtpu==0.0.1; extra == "other"')
    assert libtpu.pin() == "" and libtpu.version() == "0.0.52"


def test_a_second_plan_waits_for_the_first_and_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(libtpu.tempfile, "gettempdir", lambda: str(tmp_path))
    waiting, said = threading.Event(), []

    def say(line):
        said.append(line)
        waiting.set()

    def second():
        with libtpu.alone(say):
            said.append("in")

    with libtpu.alone(said.append):
        assert said == []  # nobody to wait for
        thread = threading.Thread(target=second)
        thread.start()
        assert waiting.wait(30)
        assert len(said) == 1 and "waiting for another --plan" in said[0]
    thread.join(30)
    assert said[1:] == ["in"]
    with open(next(tmp_path.iterdir())) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # let go of


def test_what_is_written_to_file_descriptor_2_is_dropped_only_inside(capfd, monkeypatch):
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "mine")
    monkeypatch.delenv("ALLOW_MULTIPLE_LIBTPU_LOAD", raising=False)
    os.write(2, b"before ")
    with libtpu.quiet():
        os.write(2, b"noise ")
        assert os.environ["TPU_SKIP_MDS_QUERY"] == "1"
    os.write(2, b"after")
    assert capfd.readouterr().err == "before after"
    assert os.environ["TPU_SKIP_MDS_QUERY"] == "mine"
    assert "ALLOW_MULTIPLE_LIBTPU_LOAD" not in os.environ
