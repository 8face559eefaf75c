"""The peak of a process's memory: its own, in bytes, on any system."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from hcjax.devices import memory


def test_peak_memory_is_in_bytes_and_never_falls():
    before = memory.peak_memory_bytes()
    assert 2**24 < before < 2**40  # jax alone takes more than 16 MiB
    assert memory.peak_memory_bytes() >= before


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc here")
def test_the_peak_is_not_that_of_the_process_that_started_this_one():
    child = f"import runpy; print(runpy.run_path({memory.__file__!r})['peak_memory_bytes']())"
    parent = f"import os, sys; b'x' * 2**28; os.execv(sys.executable, ['python', '-c', {child!r}])"
    done = subprocess.run([sys.executable, "-c", parent], capture_output=True, check=True)
    assert 2**20 < int(done.stdout) < 2**27


@pytest.mark.parametrize("text", [None, "Name:\tpython\nVmRSS:\t 5 kB\n"])
def test_a_system_without_the_line_asks_getrusage(monkeypatch, tmp_path, text):
    if text is not None:
        (tmp_path / "status").write_text(text)
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "status")
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    assert peak <= memory.peak_memory_bytes() < peak + 2**28
