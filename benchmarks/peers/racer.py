"""A process that answers, line by line, how many images per second it did."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from contextlib import suppress


class Racer:
    """A process that ends up in `serve.answer`; `facts` are what it says when it is ready."""

    def __init__(self, command: list[str]):
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._errors}
        environment = {k: v for k, v in os.environ.items() if not k.startswith("OPENBLAS")}
        self._process = subprocess.Popen(command, text=True, env=environment, **pipes)
        try:
            self.facts = json.loads(self._line())
        except (RuntimeError, ValueError):
            self.close()
            raise

    def round(self, seconds: float) -> float:
        """Returns images per second over about that long; RuntimeError where the process died."""
        return self._answer(f"{seconds}")

    def memory(self) -> int:
        """Returns the most memory that the process has had so far, in bytes."""
        return int(self._answer("memory"))

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.wait()
        with suppress(BrokenPipeError):  # what a dead process was still to be told
            self._process.stdin.close()
        self._process.stdout.close()
        self._errors.close()

    def _answer(self, question: str) -> float:
        with suppress(BrokenPipeError):  # why it died is read below
            self._process.stdin.write(question + "\n")
            self._process.stdin.flush()
        return float(self._line())

    def _line(self) -> str:
        for line in self._process.stdout:
            if line[0] in "{0123456789":
                return line
        self._errors.seek(0)
        said = self._errors.read().strip().splitlines() or ["it ended without a word"]
        raise RuntimeError(said[-1])
