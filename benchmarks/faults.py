"""Stops, damages and starves runs of `launch.py`, and prints what each came to.

    python benchmarks/faults.py            20 kills, 300 flipped bits, ...; about 8 minutes
    python benchmarks/faults.py --quick    3 kills, 30 flipped bits; about 2 minutes

Needs no accelerator and no network. The exit code is 0 if no line ends with "FAILED".
"""

import argparse
import logging
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from hcjax.train.checkpoint import Checkpoints
from tests import processes

CONFIG = processes.EVERYTHING | {"train.epochs": 20.0}
FAILED = []


def row(what: str, found: str, ok: bool | None) -> None:
    """Prints one line of the table; `ok` is None for what could not be tried."""
    verdict = "skipped" if ok is None else "ok" if ok else "FAILED"
    print(f"{what:<42} {found:<72} {verdict}", flush=True)
    if ok is False:
        FAILED.append(what)


def whole_run(folder: Path, cache: Path) -> tuple[Path, float]:
    """Returns (workdir, seconds) of a run that nothing stops."""
    started = time.perf_counter()
    code, _, err = processes.launch(processes.flags(folder / "whole", cache, CONFIG))
    if code:
        sys.exit(err)
    seconds = time.perf_counter() - started
    row("uninterrupted", f"{seconds:.1f} s", True)
    return folder / "whole", seconds


def kills(folder, cache, whole: Path, seconds: float, count: int, rng: random.Random) -> None:
    """SIGKILL at random moments, then on to the end; an uninterrupted run takes `seconds`."""
    workdir = folder / "killed"
    flags = processes.flags(workdir, cache, CONFIG)
    for n in range(1, count + 1):
        moment = ("after a checkpoint", "while one is written", "while starting")[n % 3]
        with processes.Program(flags) as program:
            if moment == "while starting":
                time.sleep(rng.uniform(0.1, seconds / 4))
                program.send(signal.SIGKILL)
                program.end()
            else:
                writing = moment == "while one is written"
                delay = 0 if writing else rng.uniform(0, 0.2)
                processes.stop(program, workdir, signal.SIGKILL, writing=writing, delay=delay)
        step, half = max(processes.steps(workdir), default=0), processes.half_written(workdir)
        row(f"SIGKILL {n}, {moment}", f"newest checkpoint {step}, {len(half)} half-written", True)
    code, _, err = processes.launch(flags)
    same = code == 0 and processes.result(workdir) == processes.result(whole)
    found = processes.result(workdir)["params_sha256"][:16] if code == 0 else err[:60]
    row(f"{count} kills and on to the end", f"exit code {code}, parameters {found}", same)


def flips(folder: Path, whole: Path, count: int, rng: random.Random) -> None:
    """Flips one bit of any file of the last checkpoint; reads must never be wrong."""
    last, before = processes.steps(whole)[-1], processes.steps(whole)[-2]
    workdir, truth, seen = folder / "flipped", {}, {"noticed": 0, "harmless": 0, "wrong": 0}
    for step in (last, before):
        truth[step] = read(keep_up_to(whole, workdir, step))[1]
    for _ in range(count):
        keep_up_to(whole, workdir, last)
        processes.flip(rng.choice(processes.files(workdir / "checkpoints" / str(last))), rng)
        step, found = read(workdir)
        outcome = "noticed" if step == before else "harmless"
        seen[outcome if found == truth[step] else "wrong"] += 1
    found = ", ".join(f"{n} {what}" for what, n in seen.items())
    row(f"{count} flipped bits in the last checkpoint", found, not seen["wrong"])


def keep_up_to(whole: Path, workdir: Path, last: int) -> Path:
    """Makes `workdir` a copy of the two checkpoints of `whole` up to one."""
    shutil.rmtree(workdir, ignore_errors=True)
    for step in [s for s in processes.steps(whole) if s <= last][-2:]:
        name = Path("checkpoints") / str(step)
        shutil.copytree(whole / name, workdir / name)
    return workdir


def read(workdir: Path) -> tuple[int, dict]:
    """Returns (step, {array: its bytes}) of the newest sound checkpoint."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        checkpoints = Checkpoints(workdir)
        step, arrays, _ = checkpoints.restore()
        checkpoints.close()
    return step, {name: array.tobytes() for name, array in arrays.items()}


def full_disk(folder: Path, cache: Path, whole: Path) -> None:
    """A disk with room for two checkpoints fills up; with more the same command goes on."""
    small = folder / "small"
    small.mkdir()
    last = whole / "checkpoints" / str(processes.steps(whole)[-1])
    one = sum(-(-p.stat().st_size // 4096) * 4096 for p in processes.files(last))
    mount = ["mount", "-t", "tmpfs", "-o", f"size={int(2.5 * one)}", "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True).returncode:
        row("full disk", "mounting a small disk needs root", None)
        return
    try:
        workdir = small / "run"
        code, _, err = processes.launch(processes.flags(workdir, cache, CONFIG))
        said = err.strip().splitlines()[-1][:60] if err else ""
        kept = processes.steps(workdir)
        row("full disk", f"exit code {code}, {said}...", code == 2 and "Traceback" not in err)
        row("full disk: earlier checkpoints", f"{kept}", read(workdir)[0] == kept[-1])
        subprocess.run(["mount", "-o", "remount,size=50m", str(small)], check=True)
        code, _, err = processes.launch(processes.flags(workdir, cache, CONFIG))
        same = code == 0 and processes.result(workdir) == processes.result(whole)
        row("more room, same command", f"exit code {code}, the same bits: {same}", same)
    finally:
        subprocess.run(["umount", str(small)], check=True)


def divergence(folder: Path, cache: Path) -> None:
    """A learning rate of 1e12."""
    rates = {"optim.learning_rate": 1e12, "schedule.name": "constant", "optim.name": "sgd"}
    config = CONFIG | rates | {"optim.clip_norm": 1e12}
    code, _, err = processes.launch(processes.flags(folder / "diverged", cache, config))
    said = err.strip().splitlines()[-1][:60] if err else ""
    row("learning rate 1e12", f"exit code {code}, {said}...", code == 2 and "Traceback" not in err)


def lost_peer(folder: Path, cache: Path, dies: int) -> None:
    """One of two processes is killed: the other ends by itself, and both go on together."""
    workdir = folder / f"peer{dies}"

    def pair():
        address = f"--coordinator=127.0.0.1:{processes.free_port()}"
        flags = processes.flags(workdir, cache, processes.SAME_ON_ALL_DEVICES)
        ranks = [[*flags, address, "--num_processes=2", f"--process_id={i}"] for i in range(2)]
        return [processes.Program(rank) for rank in ranks]

    programs = pair()
    with programs[0], programs[1]:
        processes.stop(programs[dies], workdir, signal.SIGKILL)
        started = time.perf_counter()
        code, *_ = programs[1 - dies].end()
        seconds = time.perf_counter() - started
    found = f"rank {1 - dies} ended after {seconds:.0f} s with exit code {code}"
    row(f"rank {dies} of 2 killed", found, code != 0)
    programs = pair()
    with programs[0], programs[1]:
        codes = [program.end()[0] for program in programs]
    row("both started again", f"exit codes {codes}", codes == [0, 0])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="3 kills, 30 flips, no lost peer")
    parser.add_argument("--seed", type=int, default=None, help="of the random moments and bits")
    quick, seed = (vars(parser.parse_args())[k] for k in ("quick", "seed"))
    seed = random.randrange(2**32) if seed is None else seed
    print(f"--seed={seed}", flush=True)
    rng = random.Random(seed)
    logging.disable()  # what the readers of damaged files complain of in the background
    sys.unraisablehook = lambda _: None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cache = folder / "compiled"
        whole, seconds = whole_run(folder, cache)
        kills(folder, cache, whole, seconds, 3 if quick else 20, rng)
        flips(folder, whole, 30 if quick else 300, rng)
        full_disk(folder, cache, whole)
        divergence(folder, cache)
        for dies in () if quick else (0, 1):
            lost_peer(folder, cache, dies)
    return int(bool(FAILED))


if __name__ == "__main__":
    sys.exit(main())
