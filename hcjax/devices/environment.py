"""The environment of a result: devices, versions, the commit."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import jax

PACKAGES = ("jax", "jaxlib", "numpy", "optax", "flax", "orbax-checkpoint", "hcjax")


def device() -> str:
    """Describes the devices of a run, e.g. "1 x cpu (cpu)"."""
    first = jax.devices()[0]
    return f"{jax.device_count()} x {first.platform} ({first.device_kind})"


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that affect a result."""
    versions = {"python": sys.version.split()[0]}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def git_commit() -> str | None:
    """Returns the commit of the running code, with '+changes' if edited; None if unknown."""

    def git(*words):
        command = ["git", "-C", str(Path(__file__).parent), *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)  # not a repository around us
        commit, status = git("rev-parse", "HEAD"), git("status", "--porcelain", "-uno")
    except (OSError, subprocess.SubprocessError):
        return None
    return commit.strip() + ("+changes" if status.strip() else "")
