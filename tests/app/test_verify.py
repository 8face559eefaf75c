"""`python -m hcjax.verify`: what it prints and writes is what the files hold, and score."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

import hcjax
from hcjax.app import setup, verify
from tests.digits import LIMIT, about, data, models, normalised, scorecards
from tests.tiny import ROOT, TEST_EXAMPLES, folder, npz, trained

pytestmark = pytest.mark.slow


def run(*arguments):
    cache = f"--config.cache_dir={folder() / 'cache'}"  # or every test compiles anew
    return verify.main(["verify", *map(str, arguments), cache])


def refused(capsys, *arguments):
    """Returns the one message of a command that does nothing."""
    capsys.readouterr()
    assert run(*arguments, "--notimed") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1, error
    return error


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Returns the paths of the packed models, by name."""
    folder = tmp_path_factory.mktemp("packed")
    paths = {name: folder / f"{name}.hcz" for name in models()}
    for name, path in paths.items():
        path.write_bytes(hcjax.pack(models()[name], about=about()))
    return paths


def written(path):
    return json.loads(path.read_text())


def test_every_file_is_scored_and_json_says_what_is_printed(capsys, tmp_path, files):
    assert run(*files.values(), "--notimed", f"--json={tmp_path / 'v.json'}") == 0
    out = capsys.readouterr().out
    rows = written(tmp_path / "v.json")
    for row, (name, path) in zip(rows, files.items(), strict=True):
        card = scorecards()[name]
        assert row["file"] == str(path) and row["name"] == path.name
        assert row["file_bytes"] == path.stat().st_size > 0
        for key in ("examples", "accuracy", "weights", "nonzeros", "macs", "nonzero_macs"):
            assert row[key] == getattr(card, key), key
        assert row["difference"] is None and row["latency_seconds"] is None
        line = next(line for line in out.splitlines() if line.startswith(path.name))
        cells = line.replace(" %", "%").split()
        assert cells == [
            path.name, f"{100 * row['accuracy']:.2f}%", f"{row['nonzeros']:,}",
            f"{row['bits_per_weight']:.2f}", f"{row['file_bytes']:,}", f"{row['ratio']:.1f}×",
            f"{row['macs']:,}",
        ]  # fmt: skip


def test_a_damaged_file_is_named_and_the_others_are_scored(capsys, tmp_path, files):
    blob = bytearray(files["int4"].read_bytes())
    blob[-3] ^= 4
    (tmp_path / "bad.hcz").write_bytes(blob)
    path = tmp_path / "v.json"
    assert run(tmp_path / "bad.hcz", files["int4"], "--notimed", f"--json={path}") == 2
    output = capsys.readouterr()
    assert output.err == f"error: {tmp_path / 'bad.hcz'}: the checksum is wrong: the file is " + (
        "damaged or cut short\n"
    )
    bad, good = written(path)
    assert bad == {
        "file": str(tmp_path / "bad.hcz"), "name": "bad.hcz", "problem": output.err[7:-1],
    }  # fmt: skip
    assert good["accuracy"] == scorecards()["int4"].accuracy
    assert "int4.hcz" in output.out and "bad.hcz" not in output.out


def test_a_missing_file_and_one_that_cannot_be_applied_are_problems(
    capsys, tmp_path, files, monkeypatch
):
    real = verify.cards.scorecard

    def scorecard(model, dataset, *, name, **options):
        if name == "float.hcz":
            raise TypeError("sub got\nincompatible shapes")
        return real(model, dataset, name=name, **options)

    monkeypatch.setattr(verify.cards, "scorecard", scorecard)
    path, missing = tmp_path / "v.json", tmp_path / "missing.hcz"
    assert run(files["float"], missing, files["int4"], "--notimed", f"--json={path}") == 2
    lines = capsys.readouterr().err.splitlines()
    shapes = "cannot be applied to images: TypeError: sub got incompatible shapes"
    assert lines == [
        f"error: {files['float']} {shapes}", f"error: {missing}: No such file or directory",
    ]  # fmt: skip
    *rows, last = written(path)
    assert [f"error: {row['problem']}" for row in rows] == lines
    assert last["accuracy"] == scorecards()["int4"].accuracy


def test_a_json_that_cannot_be_written_is_refused_before_the_scoring(
    capsys, tmp_path, files, monkeypatch
):
    monkeypatch.setattr(verify.cards, "scorecard", None)
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "v.json", tmp_path):
        assert f"cannot write {path}" in refused(capsys, files["int4"], f"--json={path}")


def test_problems_are_told_even_if_the_json_cannot_be_written_in_the_end(
    capsys, tmp_path, files, monkeypatch
):
    def full(path, rows):
        raise verify.files.unwritable(path, OSError(28, "No space left on device"))

    monkeypatch.setattr(verify.files, "write_json", full)
    assert run(tmp_path / "missing.hcz", f"--json={tmp_path / 'v.json'}") == 2
    first, second = capsys.readouterr().err.splitlines()
    assert "missing.hcz" in first and "No space left" in second


def test_a_file_that_names_no_data_is_scored_on_all_of_mnist(capsys, tmp_path):
    path = tmp_path / "a.hcz"
    path.write_bytes(hcjax.pack(models()["float"], about={k: about()[k] for k in ("mean", "std")}))
    assert run(path, "--notimed", f"--json={tmp_path / 'v.json'}") == 0
    assert "does not say what data it was trained on: mnist is taken" in capsys.readouterr().out
    (row,) = written(tmp_path / "v.json")
    assert row["examples"] == 10_000 and row["accuracy"] > 0.5


def test_images_are_normalised_as_the_file_says(tmp_path, files):
    path = tmp_path / "a.hcz"
    path.write_bytes(hcjax.pack(models()["float"], about=about(mean=[0.5], std=[2.0])))
    assert run(path, "--notimed", f"--json={tmp_path / 'v.json'}") == 0
    images = (normalised() * data().std + data().mean - 0.5) / 2.0
    model = models()["float"]
    found = np.asarray(model.apply(model.params, images.astype(np.float32))).argmax(1)
    (row,) = written(tmp_path / "v.json")
    assert row["accuracy"] == np.mean(found == data().test.labels) != scorecards()["float"].accuracy


def test_the_command_line_names_other_data(tmp_path, files):
    out = f"--json={tmp_path / 'v.json'}"
    assert run(files["int4"], "--notimed", out, "--config.data.limit=300") == 0
    assert written(tmp_path / "v.json")[0]["examples"] == 300
    config = f"--config={ROOT / 'configs' / 'default.py'}"
    assert run(files["int4"], "--notimed", out, config, "--config.data.limit=200") == 0
    assert written(tmp_path / "v.json")[0]["examples"] == 200
    assert LIMIT not in (200, 300)


def test_a_workdir_is_scored_as_its_report_says(tmp_path):
    assert run(trained(), "--notimed", f"--json={tmp_path / 'v.json'}") == 0
    (row,) = written(tmp_path / "v.json")
    report = written(trained() / "report.json")
    assert row["examples"] == TEST_EXAMPLES == report["test_examples"]
    assert row["accuracy"] == report["test_accuracy"]
    kernels = [k["kernel"] for k in hcjax.load(trained()).params.values()]
    assert row["weights"] == sum(k.size for k in kernels)


@pytest.mark.parametrize(
    ("changes", "arguments", "expected"),
    [
        (
            {"class_names": list("abcdefghij")},
            [],
            "was trained on the classes a, b, c, d, e, … (10)",
        ),
        ({"data": {"source": "web"}}, [], "unknown data source 'web'"),
        ({"data": {"sauce": "mnist"}}, [], "sauce"),
        ({"data": {"source": "npz", "path": 5}}, [], "config.data.path must be str, got 5"),
        ({"data": {"source": "npz", "path": "/no/such.npz"}}, [], "/no/such.npz"),
        ({"data": {"source": "mnist", "limit": "x"}}, [], "config.data.limit must be int, got 'x'"),
        (
            {"data": {"source": "mnist", "image_size": [3000, 3000]}},
            [],
            "takes images [28, 28, 1], the data has [3000, 3000, 1]",
        ),
        ({"data": {"source": "mnist", "channels": 3}}, [], "the data has [28, 28, 3]"),
        ({"data": {"source": "mnist", "image_size": "x"}}, [], "image_size must be pixels"),
        ({"data": {"source": ["mnist"]}}, [], "cannot be loaded"),
        ({}, ["--config.data.image_size=30"], "takes images [28, 28, 1], the data has [30, 30, 1]"),
    ],
)
def test_data_that_does_not_fit_is_one_message(capsys, tmp_path, changes, arguments, expected):
    path = tmp_path / "a.hcz"
    path.write_bytes(hcjax.pack(models()["float"], about=about(**changes)))
    message = refused(capsys, path, *arguments)
    assert expected in message and str(path) in message


def test_data_that_takes_more_memory_than_there_is_is_a_problem_of_its_file(
    capsys, tmp_path, files, monkeypatch
):
    def load(_):
        raise MemoryError("Unable to allocate 490. GiB")

    monkeypatch.setattr(setup, "load", load)
    message = refused(capsys, files["int4"])
    assert f"{files['int4']}: the data it names cannot be loaded: Unable to allocate" in message


def test_other_images_than_mnists_need_their_data_named(capsys, tmp_path):
    params = {"kernel": np.ones((192, 3), np.float32)}
    model = hcjax.trace(
        lambda p, x: x.reshape(x.shape[0], -1) @ p["kernel"],
        params,
        np.zeros((1, 8, 8, 3), np.float32),
    )
    path = tmp_path / "a.hcz"
    path.write_bytes(hcjax.pack(model))
    assert "does not say what data it was trained on; say it: --config" in refused(capsys, path)
    source = npz(tmp_path / "data.npz", channels=3)
    there = ["--config.data.source=npz", f"--config.data.path={source}"]
    assert run(path, "--notimed", *there) == 0


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "name a .hcz file or a workdir"),
        (["nothing.hcz"], "nothing.hcz: No such file"),
        (["a.hcz", "--jsn=x"], "Unknown command line flag 'jsn'. Did you mean: json"),
        (["{}", "--config.seed=1"], "config.seed has no use"),
        (["{}", "--config.data.sauce=1"], "did you mean config.data.source?"),
        (["{}", "--config=configs/lenett.py"], "no config file configs/lenett.py"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_message(capsys, files, arguments, expected):
    assert expected in refused(capsys, *(a.format(files["int4"]) for a in arguments))


def test_help_names_every_flag(capsys):
    assert verify.main(["hcjax/verify.py", "--help"]) == 0
    text = capsys.readouterr().out
    for word in ("--config", "--json", "timed", "help", "python -m hcjax.verify"):
        assert word in text
    assert all(len(line) <= 100 for line in text.splitlines())


def test_the_command_works_in_a_process_of_its_own_from_the_file_alone(tmp_path, files):
    """Run elsewhere, timed, by the interpreter: what a person does."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "hcjax.verify", str(files["int4"]), "--json=v.json"]
    done = subprocess.run(
        [*command, "--config.cache_dir=off", "--config.platform=cpu"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0 and done.stderr == "", done.stderr
    (row,) = written(tmp_path / "v.json")
    assert row["accuracy"] == scorecards()["int4"].accuracy
    assert 0 < row["latency_seconds"] < 1 and row["images_per_second"] > 100
    assert f"{1e3 * row['latency_seconds']:.3g} ms" in done.stdout
