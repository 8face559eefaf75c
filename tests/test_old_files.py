"""Files that an older hcjax wrote: still read, still give the same, and runs still go on.

In: `tests/old_files`, see its README.md. Logits are compared with tolerances, because other
machines and versions of jax round otherwise.
"""

import json
import shutil
import sys

import jax
import numpy as np
import pytest

import hcjax
from hcjax.app import verify
from tests.old_files import write
from tests.tiny import ROOT, launch

FOLDER = ROOT / "tests" / "old_files"
FACTS = json.loads((FOLDER / "expected.json").read_text())
with np.load(FOLDER / "expected.npz") as _file:  # plain arrays: nothing is unpickled
    ARRAYS = dict(_file)
FILES = [name for name in FACTS if name.endswith(".hcz")]
MADE = ["0-float.hcz", "1-pruned.hcz", "2-quantized.hcz"]  # before the stop
MARK = 123.0  # a loss that no training has


def close(found, expected, *, part=1e-4):
    """Holds logits to within a part of the largest."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=part * np.abs(expected).max())


def copied(name, tmp_path):
    """Returns a copy of an unfinished workdir, the first loss in whose metrics is `MARK`."""
    workdir = shutil.copytree(FOLDER / name, tmp_path / name)
    metrics = workdir.parent / write.STOPPED[name][0] / "metrics.jsonl"
    first, *rest = metrics.read_text().splitlines()
    lines = [json.dumps(json.loads(first) | {"loss": MARK}), *rest]
    metrics.write_text("\n".join([*lines, ""]))
    return workdir


def even(lines):
    """Returns lines of the metrics without those of training at odd steps.

    Lines are of two steps each. Releases that made these files ended one at a validation, too.
    """
    kept = [x for x in lines.split(", ") if x.endswith("validation") or int(x.split()[0]) % 2 == 0]
    return ", ".join(kept)


def went_on(name, training):
    """Holds a training to have gone on: all its lines, the first of them as it was marked."""
    assert even(write.lines(training)) == even(FACTS[name]["lines"])
    text = (training / "metrics.jsonl").read_text()
    assert json.loads(text.splitlines()[0])["loss"] == MARK


def stopped_at(training):
    """Returns the steps of the checkpoints of a training."""
    return [int(p.name) for p in (training / "checkpoints").iterdir() if p.name.isdigit()]


@pytest.mark.parametrize("name", FILES)
def test_a_packed_file_gives_its_logits(name):
    model, about = hcjax.load_any(FOLDER / name)
    assert about["class_names"] == [*"0123456789"] and about["seed"] == 0
    assert hcjax.cost(model).parameters == FACTS[name]["parameters"]
    close(write.logits(model, ARRAYS["images"]), ARRAYS[name])
    again = hcjax.unpack(hcjax.pack(model))
    close(write.logits(again, ARRAYS["images"]), ARRAYS[name])


def test_a_packed_file_is_packed_to_the_same_bytes():
    """But for the compression of the head, which is the business of zlib."""
    for name in FILES:
        blob = (FOLDER / name).read_bytes()
        again = hcjax.pack(hcjax.unpack(blob))
        streams = (data[16 + int.from_bytes(data[12:16], "little") :] for data in (blob, again))
        assert next(streams) == next(streams)


def test_packed_files_are_verified(tmp_path):
    found = tmp_path / "verified.json"
    names = ["folded.hcz", "pruned_int4.hcz"]
    paths = [str(FOLDER / name) for name in names]
    flags = ["--notimed", f"--json={found}", "--config.cache_dir=off"]
    assert verify.main(["verify", *paths, *flags]) == 0
    for name, row in zip(names, json.loads(found.read_text()), strict=True):
        assert row["file"] == str(FOLDER / name) and row["examples"] == write.DATA["limit"]
        assert row["accuracy"] == pytest.approx(FACTS[name]["accuracy"], abs=0.01)


@pytest.mark.parametrize("name", MADE)
def test_a_file_of_a_stage_gives_its_logits(name):
    model, _ = hcjax.load_any(FOLDER / "staged" / name)
    close(write.logits(model, ARRAYS["images"]), ARRAYS[f"staged/{name}"])


def test_unfinished_workdirs_load():
    last = write.STOPPED
    for name, apply in (("plain", None), ("movement", write.network().apply)):
        trained = hcjax.load(FOLDER / name, apply=apply)
        assert trained.step == last[name][1] and trained.class_names == tuple("0123456789")
        close(trained(ARRAYS["images"]), ARRAYS[f"{name}, stopped"])
    model, about = hcjax.load_any(FOLDER / "plain")
    assert about["data"]["limit"] == write.DATA["limit"]
    close(write.logits(model, ARRAYS["images"]), ARRAYS["plain, stopped"])


def test_a_run_goes_on(tmp_path):
    workdir = copied("plain", tmp_path)
    assert launch(*write.flags(write.PLAIN), f"--workdir={workdir}") == 0
    went_on("plain", workdir)
    report = json.loads((workdir / "report.json").read_text())
    assert report["steps"] == write.STEPS
    assert report["test_accuracy"] == pytest.approx(FACTS["plain"]["accuracy"], abs=0.01)
    close(hcjax.load(workdir)(ARRAYS["images"]), ARRAYS["plain, ended"], part=1e-3)


def test_movement_pruning_and_the_average_of_parameters_go_on(tmp_path):
    workdir = copied("movement", tmp_path)
    done = write.fitted(workdir)
    went_on("movement", workdir)
    assert done.step == write.STEPS
    assert write.kernel_zeros(done.train_state.params) == FACTS["movement"]["zeros"]
    trained = hcjax.load(workdir, apply=write.network().apply)
    close(trained(ARRAYS["images"]), ARRAYS["movement, ended"], part=1e-3)


@pytest.mark.slow
def test_stages_go_on(tmp_path, monkeypatch):
    home = sys.modules[hcjax.tune.__module__]  # compiled in one way, not in all that `tune` tries
    monkeypatch.setattr(home, "tune", lambda fn, *args: jax.jit(fn))
    workdir = copied("staged", tmp_path)
    assert launch(*write.flags(write.STAGED), f"--workdir={workdir}") == 0
    went_on("staged", workdir / "quantized-trained")
    assert stopped_at(workdir / "train") == [write.STEPS]
    for name in MADE:
        assert (workdir / name).read_bytes() == (FOLDER / "staged" / name).read_bytes()
    stages = json.loads((workdir / "report.json").read_text())["stages"]
    expected = FACTS["staged"]["stages"]
    assert [stage["file"] for stage in stages] == list(expected)
    for stage in stages:
        assert stage["accuracy"] == pytest.approx(expected[stage["file"]], abs=0.02)
    last = list(expected)[-1]
    model, _ = hcjax.load_any(workdir / last)
    # a weight that is rounded otherwise is a whole step of 5 bits off
    close(write.logits(model, ARRAYS["images"]), ARRAYS[f"staged/{last}"], part=0.05)
