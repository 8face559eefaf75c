"""The commands of docs/deploy.md run as they are written, in order, from an empty folder."""

import os
import re
import shutil
import stat
import subprocess
import sys

import pytest

from tests.tiny import ROOT

PAGE = (ROOT / "docs" / "deploy.md").read_text()
PATIENCE_SECONDS = 600


def sections():
    """Returns heading -> its blocks of shell commands, of sections that have some."""
    parts = re.split(r"^## (.*)$", PAGE, flags=re.M)[1:]
    found = {}
    for head, text in zip(parts[::2], parts[1::2], strict=True):
        if blocks := re.findall(r"^```sh\n(.*?)^```$", text, flags=re.M | re.S):
            found[head] = blocks
    return found


def programs(place):
    """Writes the programs that an installation has on the PATH, of this interpreter."""
    for name, module in (("python", ""), ("hcjax", "-m hcjax")):
        path = place / name
        path.write_text(f'#!/bin/sh\nexec "{sys.executable}" {module} "$@"\n')
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return place


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_the_commands_run_in_order(tmp_path, compiled):
    (tmp_path / "bin").mkdir()
    environment = os.environ | {
        "PATH": f"{programs(tmp_path / 'bin')}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
    }
    work = tmp_path / "work"
    work.mkdir()
    said = {}
    for head, blocks in sections().items():
        for block in blocks:
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", block], cwd=work, env=environment,
                capture_output=True, text=True, timeout=PATIENCE_SECONDS,
            )  # fmt: skip
            assert done.returncode == 0, f"{head}: {block}\n{done.stdout}\n{done.stderr}"
            said[head] = done.stdout
    assert said["Train and export"].count("as promised") == 4
    assert "equal bits" in said["Train and export"]
    assert "as exported: True" in said["A server with jax: CPU, GPU, TPU"]
    served = said["A server with jax: CPU, GPU, TPU"].split("\n")[0].split()
    assert said["A device, in C"].split("\n")[-1].split() == served and len(served) == 16
