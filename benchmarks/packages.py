"""Files of Debian packages, fetched by the packages' names and unpacked into a folder of one's own.

Nothing is installed and nobody has to be root: `apt-get download` fetches, `dpkg-deb -x` unpacks.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path


def fetch(names: Sequence[str], folder: str | Path) -> Path:
    """Returns a folder that holds the files of Debian packages, e.g. `usr/share/…` of each.

    Args:
      names: of packages.
      folder: to unpack them into; what is there already is not fetched again.

    Raises:
      SystemExit: if a package cannot be fetched, with what apt-get said.
    """
    folder = Path(folder).expanduser().absolute()  # each command runs in a place of its own
    done = folder / ".packages"
    done.mkdir(parents=True, exist_ok=True)
    for name in names:
        if (done / name).exists():
            continue
        with tempfile.TemporaryDirectory() as place:
            _run(["apt-get", "download", "-q", name], place, name)
            (archive,) = Path(place).glob("*.deb")
            _run(["dpkg-deb", "-x", str(archive), str(folder)], place, name)
        (done / name).touch()
    return folder


def _run(command: list[str], place: str, name: str) -> None:
    try:
        subprocess.run(command, cwd=place, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", "") or error
        sys.exit(
            f"cannot fetch the Debian package {name}: {said}\n"
            f"On Debian or Ubuntu `apt-get update` may help; elsewhere unpack the package by hand."
        )
