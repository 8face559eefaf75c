"""Several devices and several processes: the same training, one workdir, nobody waits for ever."""

import json
import re
import shutil
import signal
import socket
import threading

import jax
import numpy as np
import pytest

import hcjax
from hcjax.app import run
from hcjax.devices import hosts
from hcjax.errors import ConfigError, PlatformError
from tests import processes, tiny

# launch.py that also says what it trained, since only the first process writes a report
TELLING = """
import sys
from hcjax import trees
from hcjax.app import cli
from hcjax.train import loop
fit = loop.fit
def telling(*args, **options):
    done = fit(*args, **options)
    print("fitted", done.step, trees.sha256(done.params))
    return done
loop.fit = telling
sys.exit(cli.main(sys.argv))
"""


def together(flags, *, count, apart=((), ()), **options):
    """Returns two programs that join as processes of one run, each with flags of its own."""
    join = f"--coordinator=127.0.0.1:{processes.free_port()}", f"--num_processes={count}"
    ranks = [[*flags, *apart[i], *join, f"--process_id={i}"] for i in range(2)]
    return [processes.Program(rank, code=TELLING, **options) for rank in ranks]


@pytest.mark.slow
def test_a_run_goes_from_8_devices_to_1_to_2_processes_of_2(tmp_path, compiled):
    """Each part is stopped by SIGTERM, which one of the two processes gets for both.

    Sums over devices are rounded in another order, so parameters agree to 1e-4 after 47 steps of
    AdamW, which divides by small second moments; dropout, which differs by device, is off.
    """
    one, many = tmp_path / "one", tmp_path / "many"
    config = processes.SAME_ON_ALL_DEVICES
    code, _, err = processes.launch(processes.flags(one, compiled, config))
    assert code == 0, err
    flags = processes.flags(many, compiled, config)
    for devices in (8, 1):
        with processes.Program(flags, devices=devices) as program:
            processes.stop(program, many, signal.SIGTERM)

    first, second = together(flags, count=2, devices=2)
    with first, second:
        processes.stop(second, many, signal.SIGTERM)
        code, out, err = first.end()
    saved = processes.steps(many)[-1]
    assert code == 0 and f"fitted {saved} " in out, err

    flags.remove("--quiet")
    first, second = together(flags, count=2, devices=2)
    with first, second:
        ends = [program.end() for program in (first, second)]
    assert [code for code, *_ in ends] == [0, 0], ends
    told = [re.search("^fitted .*", out, re.M)[0] for _, out, _ in ends]  # step and fingerprint
    assert told[0] == told[1]
    assert ["images/s" in err for *_, err in ends] == [True, False]  # one progress line

    ours, theirs = processes.result(many), processes.result(one)
    trained = hcjax.load(many).params, hcjax.load(one).params
    for layer, arrays in trained[0].items():
        for name, array in arrays.items():
            np.testing.assert_allclose(array, trained[1][layer][name], atol=1e-4)
    assert ours["params_sha256"] in told[0] and ours["step"] == theirs["step"]
    assert [h["step"] for h in ours["history"]] == [h["step"] for h in theirs["history"]]
    assert_same_score(many, one)
    lines = [[json.loads(line) for line in r["metrics"]] for r in (ours, theirs)]
    assert len(lines[0]) == len(lines[1])  # two processes wrote every line once
    for line, same in zip(*lines, strict=True):
        assert line.pop("split") == same.pop("split")
        assert line == pytest.approx(same, rel=1e-3, abs=1e-3)


def assert_same_score(many, one):
    """Two processes score every test example once, and as one process does."""
    ours, theirs = (json.loads((w / "report.json").read_text()) for w in (many, one))
    size = len(hcjax.data.load("mnist", validation=500, limit=1000).test.labels)
    for report in (ours, theirs):
        assert report["test_examples"] == np.sum(report["confusion"]) == size
        assert report["test_accuracy"] == np.trace(report["confusion"]) / size
    assert np.sum(ours["confusion"], 1).tolist() == np.sum(theirs["confusion"], 1).tolist()
    # an example whose two best logits are within 1e-3 may fall to the other side
    assert ours["test_accuracy"] == pytest.approx(theirs["test_accuracy"], abs=2.5 / size)


@pytest.mark.slow
def test_a_pipeline_of_two_processes_writes_each_stage_once(tmp_path):
    changes = {
        "stages": "('prune','quantize')", "prune.sparsity": 0.5, "prune.epochs": 1,
        "quantize.images": 16,
    }  # fmt: skip
    flags = [*tiny.flags(tiny.npz(tmp_path / "data.npz")), f"--workdir={tmp_path / 'run'}"]
    flags += [f"--config.{key}={value}" for key, value in changes.items()]
    first, second = together(flags, count=2)
    with first, second:
        ends = [program.end() for program in (first, second)]
    assert [code for code, *_ in ends] == [0, 0], ends
    told = [re.findall(r"^\w+: [\d,]+ bytes in .*", out, re.M) for _, out, _ in ends]
    assert len(told[0]) == 3 and told[1] == []  # the second says nothing
    files = sorted(path.name for path in (tmp_path / "run").glob("*.hcz*"))
    assert files == ["0-float.hcz", "1-pruned.hcz", "2-quantized.hcz"]  # no half of one left
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert [stage["name"] for stage in report["stages"]] == ["float", "pruned", "quantized"]


def test_processes_with_workdirs_of_their_own_are_told_at_once(tmp_path):
    data = tiny.npz(tiny.folder() / "data.npz")
    shutil.copytree(tiny.trained(), tmp_path / "0")
    apart = [[f"--workdir={tmp_path / str(i)}"] for i in range(2)]
    for program in together(tiny.flags(data), count=2, apart=apart):
        with program:
            code, _, err = program.end(timeout=60)
        assert code == 2 and "Traceback" not in err, err
        assert "rank 0 sees a report, rank 1 sees no run" in err


@pytest.mark.parametrize("message", ["[Gloo] Connection closed by peer", "barrier timed out"])
def test_a_process_lost_outside_training_is_explained(monkeypatch, capsys, message):
    def lost(*_, **__):
        raise ValueError(message)

    monkeypatch.setattr(run, "run", lost)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert tiny.launch(f"--config={tiny.ROOT / 'configs' / 'default.py'}") == 2
    err = capsys.readouterr().err
    assert err.startswith("error: another process of this run is gone") and message in err


def test_our_own_errors_are_not_taken_for_a_lost_process(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ConfigError, match="coordination"), hosts.explained():
        raise ConfigError("no coordination")


def test_a_process_that_never_joins_is_named_in_time(tmp_path, compiled):
    flags = processes.flags(tmp_path, compiled, processes.EVERYTHING, join_timeout=3)
    for program in together(flags, count=3):
        with program:
            code, _, err = program.end(timeout=60)
        assert code == 2 and "of 3 processes, rank 2 did not join" in err, err
        assert "within 3 s" in err and "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def call(*ranks, count, timeout_seconds=5.0, counts=None):
    """Returns what each of the ranks hears from a roll call that they all join."""
    port, heard = processes.free_port(), [None] * len(ranks)

    def join(i, rank, count):
        try:
            hosts.roll_call("127.0.0.1", port, count, rank, timeout_seconds=timeout_seconds)
        except PlatformError as error:
            heard[i] = str(error)

    counts = counts or [count] * len(ranks)
    threads = [
        threading.Thread(target=join, args=(i, rank, n))
        for i, (rank, n) in enumerate(zip(ranks, counts, strict=True))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return heard


def test_a_full_roll_call_is_silent():
    assert call(2, 0, 1, count=3) == [None] * 3


def test_everyone_who_came_hears_who_is_absent():
    for heard in call(3, 0, count=5, timeout_seconds=0.5):
        assert "of 5 processes, rank 1, 2, 4 did not join" in heard


def test_without_the_first_process_the_others_name_it():
    (heard,) = call(1, count=2, timeout_seconds=0.5)
    assert "rank 0 did not join" in heard and "this is rank 1 of 2" in heard


def test_a_rank_given_twice_is_named():
    heard = call(0, 1, 1, count=3)
    assert heard[0] and all("two processes say that they are rank 1" in h for h in heard)


def test_a_second_first_process_is_told():
    heard = call(0, 0, count=2, timeout_seconds=0.5)
    assert any("is there another rank 0?" in h for h in heard)


def test_another_number_of_processes_is_named():
    heard = call(0, 1, counts=[2, 3], count=None)
    assert all("rank 1 was told of 3 processes, rank 0 of 2" in h for h in heard)


def test_something_else_that_knocks_is_ignored():
    port = processes.free_port()
    first = threading.Thread(
        target=hosts.roll_call, args=("127.0.0.1", port, 2, 0), kwargs={"timeout_seconds": 20}
    )
    first.start()
    for knock in (b"GET / HTTP/1.1\r\n\r\n", b"1\n", b"[1]\n", b'"abc"\n', b""):
        for _ in range(200):
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=1) as s:
                    s.sendall(knock)
                break
            except ConnectionRefusedError:
                threading.Event().wait(0.05)
    hosts.roll_call("127.0.0.1", port, 2, 1, timeout_seconds=20)
    first.join(20)
    assert not first.is_alive()


def test_a_rank_out_of_range_is_refused():
    for rank in (-1, 2, None):
        options = {"num_processes": 2, "process_id": rank, "timeout_seconds": 1}
        with pytest.raises(ConfigError, match=r"process_id must be in \[0, num_processes\)"):
            hosts.initialize(coordinator="127.0.0.1:1", **options)


def test_an_address_without_a_port_is_refused():
    with pytest.raises(ConfigError, match="host:port, got 'localhost'"):
        hosts.initialize(coordinator="localhost", num_processes=2, process_id=0)
