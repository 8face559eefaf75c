"""Launches `launch.py` as programs of their own, watches their checkpoints and stops them.

Shared by the tests and by `benchmarks/faults.py`.
"""

import hashlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
PATIENCE_SECONDS = 240  # a program that takes longer hangs

# A small network that learns, with all that a resume must bring back: augmentation that mixes
# examples, dropout, schedule, optimiser, moving average, early stopping and its best parameters.
# Validation, lines and checkpoints fall on different steps.
EVERYTHING = {
    "data.validation": 500,
    "data.limit": 1000,
    "model.name": "mlp_tiny",
    "model.dropout": 0.2,
    "augment.use": "('noise','mixup')",
    "optim.name": "adamw",
    "optim.learning_rate": 3e-3,
    "optim.clip_norm": 1.0,
    "schedule.name": "cosine",
    "schedule.warmup_steps": 5,
    "train.batch_size": 64,
    "train.epochs": 5.0,
    "train.patience": 50,
    "train.ema_decay": 0.9,
    "train.eval_every": 7,
    "train.log_every": 5,
    "train.checkpoint_every": 3,
}
# Without what depends on the number of devices: each drops units of its own.
SAME_ON_ALL_DEVICES = EVERYTHING | {
    "model.dropout": 0.0,
    "augment.use": "('noise',)",
    "train.epochs": 3.0,
}


def flags(workdir, cache, config, **others) -> list[str]:
    """Returns the command line of a quiet run."""
    config = {**config, "cache_dir": cache}
    return [
        f"--config={ROOT / 'configs' / 'default.py'}",
        f"--workdir={workdir}",
        "--quiet",
        *(f"--config.{name}={value}" for name, value in config.items()),
        *(f"--{name}={value}" for name, value in others.items()),
    ]


class Program:
    """A running `launch.py`.

    Args:
      flags: of its command line.
      devices: forced CPU devices that it sees.
      code: Python to run with these flags instead of `launch.py`.
      **options: of `subprocess.Popen`.
    """

    def __init__(self, flags: list[str], *, devices: int = 1, code: str = "", **options):
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        }
        self._process = subprocess.Popen(
            [sys.executable, *(["-c", code] if code else ["launch.py"]), *flags],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )

    def running(self) -> bool:
        return self._process.poll() is None

    def send(self, number: int) -> None:
        self._process.send_signal(number)

    def end(self, timeout: float = PATIENCE_SECONDS) -> tuple[int, str, str]:
        """Returns (exit code, stdout, stderr) once it is over."""
        try:
            out, err = self._process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            out, err = self._process.communicate()
            raise AssertionError(f"still running after {timeout} s:\n{out}\n{err}") from None
        return self._process.returncode, out, err

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.communicate()


def launch(flags: list[str], **options) -> tuple[int, str, str]:
    """Runs `launch.py` to its end; returns (exit code, stdout, stderr)."""
    with Program(flags, **options) as program:
        return program.end()


def stop(program: Program, workdir: Path, number: int, *, writing=False, delay=0.0) -> str:
    """Sends a signal after the next new checkpoint, or while one is being written.

    Args:
      program: what is running in the workdir.
      workdir: the folder of the run.
      number: the signal.
      writing: send it on sight of a half-written checkpoint that follows a new one.
      delay: seconds to wait before sending it.

    Returns:
      What the program wrote to stderr.
    """
    before = max(steps(workdir), default=0)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while max(steps(workdir), default=0) <= before or (writing and not half_written(workdir)):
        if not program.running() or time.monotonic() > deadline:
            raise AssertionError(f"nothing to stop: {program.end(1)}")
        time.sleep(0.001)
    time.sleep(delay)
    program.send(number)
    code, _, err = program.end()
    expected = 0 if number == signal.SIGTERM else -number
    assert code == expected, f"exit code {code} after signal {number}: {err}"
    return err


def steps(workdir: Path) -> list[int]:
    """Returns the steps of the complete checkpoints of a workdir, oldest first."""
    return sorted(int(p.name) for p in (workdir / "checkpoints").glob("*") if p.name.isdigit())


def half_written(workdir: Path) -> list[Path]:
    """Returns the folders of checkpoints that are, or were, being written."""
    return list((workdir / "checkpoints").glob("*tmp*"))


def result(workdir: Path) -> dict:
    """Returns what two runs that did the same must agree on, to the bit."""
    from hcjax.train.checkpoint import Checkpoints

    report = json.loads((workdir / "report.json").read_text())
    checkpoints = Checkpoints(workdir)
    step, arrays, record = checkpoints.restore()
    checkpoints.close()
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return {
        "params_sha256": report["params_sha256"],
        "test_accuracy": report["test_accuracy"],
        "step": step,
        "arrays": {name: hashlib.sha256(a.tobytes()).hexdigest() for name, a in arrays.items()},
        "history": record["history"],
        "best": record["best"],
        "metrics": [line for line in lines if '"test"' not in line],
    }


def files(folder: Path) -> list[Path]:
    """Returns all files below a folder, sorted."""
    return sorted(p for p in folder.rglob("*") if p.is_file())


def flip(path: Path, rng: random.Random) -> str:
    """Flips one random bit of a file; returns which."""
    content = bytearray(path.read_bytes())
    bit = rng.randrange(8 * len(content))
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    return f"bit {bit} of {path.name}"


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def warned_of(err: str) -> list[int]:
    """Returns the steps of the checkpoints that warnings on stderr call damaged."""
    return [int(n) for n in re.findall(r"warning: checkpoint \S*/(\d+) is damaged", err)]
