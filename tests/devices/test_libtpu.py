"""Loading the TPU compiler: alone and quiet. Nothing here loads it."""

import fcntl
import os
import threading

from hcjax.devices import libtpu


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
