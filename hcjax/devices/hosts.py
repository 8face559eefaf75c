"""Several hosts: a roll call that names absent processes, then `jax.distributed`.

`jax.distributed.initialize` ends the process from C++, without a name, when a process never
joins. The roll call comes before it, on the same address: every process reports its rank to
process 0, which answers all of them with the missing ranks.

A process that dies in the middle of a run ends the others too, with an exit code that is not 0: at
once if it was process 0, else when jax misses its heartbeat, after up to 100 s. Started again, all
resume from the newest checkpoint.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from hcjax.errors import CheckpointError, ConfigError, HcjaxError, PlatformError

_LONGEST_LINE = 1 << 16
_GONE = re.compile("gloo|nccl|coordination|barrier|heartbeat|connection", re.IGNORECASE)


def initialize(
    *,
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    timeout_seconds: int = 300,
) -> None:
    """Joins this process to the others of the run; call it before the first use of devices.

    Args:
      coordinator: "host:port" of process 0, reachable from all; None lets jax find it out, as it
        can on Cloud TPU pods and under Slurm (there is no roll call then).
      num_processes: in all, >= 1. process_id: of this one, in [0, num_processes).
      timeout_seconds: how long to wait for the others, > 0.

    Raises:
      ConfigError: if an argument is missing or out of range.
      PlatformError: if a process did not join in time, naming the absent ranks.
    """
    timeouts = {"initialization_timeout": timeout_seconds, "shutdown_timeout_seconds": 60}
    if coordinator is None:
        _join(**timeouts)
        return
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError(f"coordinator must be host:port, got {coordinator!r}")
    if num_processes is None or process_id is None or not 0 <= process_id < num_processes:
        raise ConfigError(
            f"with a coordinator, process_id must be in [0, num_processes), got process_id "
            f"{process_id} of num_processes {num_processes}"
        )
    roll_call(host, int(port), num_processes, process_id, timeout_seconds=timeout_seconds)
    _join(coordinator, num_processes, process_id, **timeouts)


def _join(*args, **timeouts) -> None:
    try:
        jax.distributed.initialize(*args, **timeouts)
    except (RuntimeError, ValueError) as error:
        raise PlatformError(
            f"cannot join the other processes: {str(error).splitlines()[0]} (see --coordinator, "
            f"--num_processes and --process_id)"
        ) from error


@contextlib.contextmanager
def explained():
    """Converts jax's exceptions after the loss of another process to PlatformError."""
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        ours = isinstance(error, HcjaxError) or not _GONE.search(str(error))
        if ours or jax.process_count() == 1:
            raise
        raise PlatformError(
            f"another process of this run is gone ({str(error).splitlines()[0][:200]}); see what "
            f"it said, and start all of them again to go on from the newest checkpoint"
        ) from error


def gather(value: int) -> list[int]:
    """Gathers one integer from every process, by rank."""
    if jax.process_count() == 1:
        return [value]
    return multihost_utils.process_allgather(np.int32(value)).tolist()


def check_same(workdir: Path, fact: int, say: Callable[[int], str]) -> None:
    """Compares a fact about a workdir between processes; every process must call it.

    Args:
      workdir: the folder of all processes.
      fact: as this process sees it, a number.
      say: describes such a number in words.

    Raises:
      CheckpointError: in every process, if the numbers differ, naming ranks.
    """
    facts = gather(fact)
    if len(set(facts)) > 1:
        listing = ", ".join(f"rank {rank} {say(n)}" for rank, n in enumerate(facts))
        raise CheckpointError(
            f"the processes do not find the same run in their workdirs ({listing}; this is rank "
            f"{jax.process_index()}, {workdir}); give all of them one folder that all can see"
        )


def roll_call(host: str, port: int, count: int, rank: int, *, timeout_seconds: float) -> None:
    """Waits until all `count` processes have called it.

    Args:
      host, port: where process 0 listens. count: processes in all. rank: this one's.
      timeout_seconds: how long to wait for the others.

    Raises:
      PlatformError: in every present process, naming the absent ranks, or a wrong rank or number of
        processes.
    """
    if count == 1:
        return
    deadline = time.monotonic() + timeout_seconds
    address = f"{host}:{port}"
    complaint = (_listen if rank == 0 else _report)(host, port, count, rank, deadline)
    if complaint:
        raise PlatformError(
            f"roll call at {address}, within {timeout_seconds:g} s: {complaint}. Start the same "
            f"command on every host, each with its own --process_id, and see that the port is "
            f"open (this is rank {rank} of {count})"
        )


def _listen(host: str, port: int, count: int, rank: int, deadline: float) -> str:
    """Collects ranks in process 0 until all are there or time is up; returns the complaint."""
    joined: dict[int, str] = {}
    callers: list[socket.socket] = []
    complaint = ""
    try:
        server = socket.create_server(("", port), backlog=max(128, count))
    except OSError as error:
        return f"cannot listen there ({error.strerror}); is there another rank 0?"
    with server:
        while len(joined) < count - 1 and not complaint:
            server.settimeout(max(1e-3, deadline - time.monotonic()))
            try:
                connection, _ = server.accept()
            except TimeoutError:
                break
            try:
                connection.settimeout(5.0)
                call = json.loads(connection.makefile("rb").readline(_LONGEST_LINE))
                other, theirs, who = int(call["rank"]), int(call["count"]), call["who"]
            except (OSError, ValueError, TypeError, KeyError):
                connection.close()  # not a process of this run
                continue
            callers.append(connection)
            if theirs != count:
                complaint = f"rank {other} was told of {theirs} processes, rank 0 of {count}"
            elif joined.setdefault(other, who) != who:
                complaint = f"two processes say that they are rank {other}"
        absent = sorted(set(range(1, count)) - set(joined))
        if absent and not complaint:
            complaint = f"of {count} processes, rank {', '.join(map(str, absent))} did not join"
        for connection in callers:
            with connection, contextlib.suppress(OSError):
                connection.sendall(json.dumps(complaint).encode() + b"\n")
    return complaint


def _report(host: str, port: int, count: int, rank: int, deadline: float) -> str:
    """Reports this rank to process 0 and returns its complaint."""
    call = {"rank": rank, "count": count, "who": uuid.uuid4().hex}
    while (left := deadline - time.monotonic()) > 0:
        with (
            contextlib.suppress(OSError, ValueError),
            socket.create_connection((host, port), timeout=min(2.0, left)) as connection,
        ):
            connection.sendall(json.dumps(call).encode() + b"\n")
            # rank 0 answers at its own deadline, which may be a little after ours
            connection.settimeout(max(0.1, deadline - time.monotonic()) + 5.0)
            return json.loads(connection.makefile("rb").readline(_LONGEST_LINE))
        time.sleep(0.1)
    return "rank 0 did not join, or has begun without this process (is its rank given twice?)"
