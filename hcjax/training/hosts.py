"""Several hosts: a roll call that names who is absent, then `jax.distributed`.

`jax.distributed.initialize` ends the process from C++, without a name, when a process never
joins. The roll call comes before it, on the same address: every process reports its rank to
process 0, which tells all of them who is missing.
"""

from __future__ import annotations

import json
import socket
import time

import jax

from hcjax.errors import ConfigError, PlatformError

_LONGEST_LINE = 1 << 16


def initialize(
    *,
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    timeout_seconds: int = 300,
) -> None:
    """Joins this process to the others of the run; call it before anything asks for devices.

    Args:
      coordinator: "host:port" of process 0, reachable from all; None lets jax find it out, as it
        can on Cloud TPU pods and under Slurm (there is no roll call then).
      num_processes: in all, >= 1. process_id: of this one, in [0, num_processes).
      timeout_seconds: how long to wait for the others, > 0.

    Raises:
      ConfigError: if an argument is missing or out of range.
      PlatformError: if a process did not join in time, naming the absent ranks.
    """
    if coordinator is None:
        jax.distributed.initialize(initialization_timeout=timeout_seconds)
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
    jax.distributed.initialize(
        coordinator, num_processes, process_id, initialization_timeout=timeout_seconds
    )


def roll_call(host: str, port: int, count: int, rank: int, *, timeout_seconds: float) -> None:
    """Returns when all `count` processes have called it.

    Args:
      host, port: where process 0 listens. count: processes in all. rank: this one's.
      timeout_seconds: how long to wait for the others.

    Raises:
      PlatformError: naming the absent ranks, in every process that did come.
    """
    deadline = time.monotonic() + timeout_seconds
    address = f"{host}:{port}"
    if count == 1:
        return
    absent = _listen(port, count, deadline) if rank == 0 else _report(host, port, rank, deadline)
    if absent:
        raise PlatformError(
            f"after {timeout_seconds:g} s these processes of {count} have not joined at {address}: "
            f"rank {', '.join(map(str, absent))}. Start the same command on every host, each with "
            f"its own --process_id, and see that the port is open (this is rank {rank})"
        )


def _listen(port: int, count: int, deadline: float) -> list[int]:
    """Process 0: collects ranks until all are there or time is up; returns the absent ones."""
    joined: dict[int, socket.socket] = {}
    with socket.create_server(("", port), backlog=count) as server:
        while len(joined) < count - 1 and (left := deadline - time.monotonic()) > 0:
            server.settimeout(left)
            try:
                connection, _ = server.accept()
                connection.settimeout(min(5.0, max(0.1, deadline - time.monotonic())))
                rank = int(connection.makefile("rb").readline(32))
            except (OSError, ValueError):
                continue  # nobody came in time, or something else knocked
            if 0 < rank < count:
                joined[rank] = connection
        absent = sorted(set(range(1, count)) - set(joined))
        for connection in joined.values():
            with connection:
                try:
                    connection.sendall(json.dumps(absent).encode() + b"\n")
                except OSError:
                    pass  # it left again; jax.distributed will say so
    return absent


def _report(host: str, port: int, rank: int, deadline: float) -> list[int]:
    """Other processes: tell rank 0, and hear from it who is absent."""
    while (left := deadline - time.monotonic()) > 0:
        try:
            with socket.create_connection((host, port), timeout=min(2.0, left)) as connection:
                connection.sendall(f"{rank}\n".encode())
                # rank 0 answers at its own deadline, which may be a little after ours
                connection.settimeout(max(0.1, deadline - time.monotonic()) + 5.0)
                answer = connection.makefile("rb").readline(_LONGEST_LINE)
                if answer:
                    return json.loads(answer)
        except (OSError, ValueError):
            pass
        time.sleep(0.1)
    return [0]
