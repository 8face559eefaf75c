"""`python -m hcjax.compare`: one table, what changed against the first, a picture, and JSON."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

import hcjax
from hcjax.app import compare
from hcjax.runs import saved
from tests import tiny
from tests.digits import about, data, models, predictions, scorecards
from tests.tiny import ROOT, TEST_EXAMPLES, images, npz, trained

pytestmark = pytest.mark.slow


def run(*arguments):
    cache = f"--config.cache_dir={tiny.folder() / 'cache'}"  # or every test compiles anew
    return compare.main(["compare", *map(str, arguments), cache, "--notimed"])


def refused(capsys, *arguments):
    capsys.readouterr()
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1, error
    return error


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Returns a folder of the packed models."""
    path = tmp_path_factory.mktemp("packed")
    for name, model in models().items():
        (path / f"{name}.hcz").write_bytes(hcjax.pack(model, about=about()))
    return path


def test_the_first_is_the_baseline_of_the_others(capsys, tmp_path, folder):
    paths = [folder / f"{name}.hcz" for name in ("float", "pruned", "int4")]
    plot, out = tmp_path / "pareto.png", tmp_path / "c.json"
    assert run(*paths, f"--plot={plot}", f"--json={out}") == 0
    text = capsys.readouterr().out
    assert plot.read_bytes()[1:4] == b"PNG" and str(plot) in text and str(out) in text
    content = json.loads(out.read_text())
    assert [row["name"] for row in content["stages"]] == ["float.hcz", "pruned.hcz", "int4.hcz"]
    for path, row in zip(paths, content["stages"], strict=True):
        card = scorecards()[path.stem]
        assert row["file"] == str(path) and row["file_bytes"] == path.stat().st_size
        for key in ("accuracy", "difference", "difference_error", "nonzeros", "weights", "macs"):
            assert row[key] == getattr(card, key), key
        assert row["bits_per_weight"] == 8 * path.stat().st_size / scorecards()["float"].weights
        shown = (
            f"{100 * (row['difference'] or 0):+.2f} ± {100 * (row['difference_error'] or 0):.2f} %"
        )
        assert (shown in text) == (row["difference"] is not None)
    labels, was = data().test.labels, predictions(models()["float"])
    for path, found in zip(paths[1:], content["changes"], strict=True):
        now = predictions(models()[path.stem])
        assert (found["before"], found["after"]) == ("float.hcz", path.name)
        lost = np.flatnonzero((was == labels) & (now != labels))
        assert found["changed"]["right -> wrong"] == lost.tolist() and len(lost)
        assert f"right -> wrong: #{lost[0]} {was[lost[0]]} -> {now[lost[0]]}" in text
        by_class = np.bincount(labels[lost], minlength=10).tolist()
        assert found["per_class"]["right -> wrong"] == by_class


def test_a_workdir_with_packed_files_in_it_is_compared_as_a_whole(capsys, tmp_path):
    workdir = shutil.copytree(trained(), tmp_path / "run")
    model, found = saved.load_any(workdir)
    x, _ = images(16)
    x = (x.astype(np.float32) / 255 - np.float32(found["mean"])) / np.float32(found["std"])
    small = hcjax.int8(model, hcjax.calibrate(model, x))
    (workdir / "int8.hcz").write_bytes(hcjax.pack(small))
    out = tmp_path / "c.json"
    assert run(workdir, f"--json={out}") == 0
    first, second = json.loads(out.read_text())["stages"]
    assert (first["name"], second["name"]) == ("run", "int8.hcz")
    assert first["examples"] == second["examples"] == TEST_EXAMPLES
    report = json.loads((workdir / "report.json").read_text())
    assert first["accuracy"] == report["test_accuracy"]
    assert first["file_bytes"] == len(hcjax.pack(model))
    assert "run" in capsys.readouterr().out


def test_a_pattern_names_files_and_other_data_may_be_named(capsys, tmp_path, folder):
    out = tmp_path / "c.json"
    assert run(folder / "*.hcz", "--config.data.limit=200", f"--json={out}") == 0
    rows = json.loads(out.read_text())["stages"]
    assert [row["name"] for row in rows] == ["float.hcz", "int4.hcz", "pruned.hcz"]
    assert {row["examples"] for row in rows} == {200}


def test_models_of_other_classes_are_refused(capsys, folder):
    message = refused(capsys, folder / "float.hcz", trained())
    assert f"{trained()} was trained on the classes ant, bee, cat (3)" in message


def test_a_model_of_other_images_is_refused(capsys, tmp_path, folder):
    source = npz(tmp_path / "data.npz", side=9)
    message = refused(capsys, trained(), folder / "float.hcz", f"--config.data.path={source}")
    assert "was trained on the classes 0, 1, 2, 3, 4, … (10), the data has ant" in message


def test_what_is_damaged_or_missing_is_named_and_the_others_are_compared(capsys, tmp_path, folder):
    bad, out, missing = tmp_path / "bad.hcz", tmp_path / "c.json", tmp_path / "missing.hcz"
    bad.write_bytes((folder / "int4.hcz").read_bytes()[:-1])
    baseline, good = folder / "float.hcz", folder / "int4.hcz"
    assert run(baseline, bad, missing, good, f"--json={out}") == 2
    output = capsys.readouterr()
    lines = output.err.splitlines()
    assert len(lines) == 2 and f"{bad}: the checksum" in lines[0] and str(missing) in lines[1]
    assert "int4.hcz answers" in output.out
    content = json.loads(out.read_text())
    assert [row["file"] for row in content["stages"]] == [
        str(path) for path in (baseline, bad, missing, good)
    ]
    assert [f"error: {row['problem']}" for row in content["stages"][1:3]] == lines
    assert [one["after"] for one in content["changes"]] == ["int4.hcz"]


def test_a_damaged_file_and_a_single_model_are_one_message(capsys, tmp_path, folder):
    (tmp_path / "bad.hcz").write_bytes((folder / "int4.hcz").read_bytes()[:-1])
    for other in ("float", "int4"):  # without its baseline nothing is compared
        message = refused(capsys, tmp_path / "bad.hcz", folder / f"{other}.hcz")
        assert "bad.hcz: the checksum is wrong" in message
    for same in ([], [os.path.relpath(folder / "float.hcz")]):
        message = refused(capsys, folder / "float.hcz", *same)
        assert "float.hcz is one model: name at least two" in message
    assert "name a .hcz file or a workdir" in refused(capsys)


def test_help_names_every_flag(capsys):
    assert compare.main(["hcjax/compare.py", "--help"]) == 0
    text = capsys.readouterr().out
    for word in ("--config", "--json", "--plot", "timed", "help", "python -m hcjax.compare"):
        assert word in text
    assert all(len(line) <= 100 for line in text.splitlines())


def test_the_command_works_in_a_process_of_its_own(tmp_path, folder):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "hcjax.compare", "float.hcz", "int4.hcz", "--notimed"]
    options = [f"--plot={tmp_path / 'p.png'}", "--config.cache_dir=off", "--config.data.limit=100"]
    done = subprocess.run(
        [*command, *options], cwd=folder, env=environment, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert "int4.hcz answers" in done.stdout and "difference" in done.stdout
    assert (tmp_path / "p.png").stat().st_size > 1000
