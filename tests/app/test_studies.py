"""`--seeds` and `--sweep`: sub-folders, tables, JSON, and going on after a cut."""

import json

import numpy as np
import pytest

from hcjax.app import studies
from tests.tiny import flags, launch, npz


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Returns (folder, arguments) of three finished seeds."""
    folder = tmp_path_factory.mktemp("study")
    arguments = [*flags(npz(folder / "data.npz")), f"--workdir={folder / 'seeds'}", "--seeds=2"]
    assert launch(*arguments, "--quiet") == 0
    return folder, arguments


def reports(folder):
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*/report.json"))]


def test_seeds_json_holds_mean_and_sample_std_of_the_runs(study):
    summary = json.loads((study[0] / "seeds" / "seeds.json").read_text())
    runs = reports(study[0] / "seeds")
    assert [run["seed"] for run in runs] == [r["seed"] for r in summary["results"]] == [0, 1]
    assert summary["n"] == 2
    nll = [run["nll"] for run in runs]
    assert nll[0] != nll[1]
    assert summary["mean"]["nll"] == pytest.approx(np.mean(nll))
    assert summary["std"]["nll"] == pytest.approx(np.std(nll, ddof=1))
    assert set(summary["mean"]) == set(studies.SHOWN)


def test_more_seeds_read_the_finished_ones_and_run_only_the_new(study, monkeypatch, capsys):
    folder, arguments = study
    before = {p: p.stat().st_mtime_ns for p in folder.glob("seeds/*/report.json")}
    trained = []
    real = studies.run

    def note(config, workdir, **options):
        if not (workdir / "report.json").exists():
            trained.append(workdir.name)
        return real(config, workdir, **options)

    monkeypatch.setattr(studies, "run", note)
    capsys.readouterr()
    assert launch(*arguments[:-1], "--seeds=3", "--quiet") == 0
    assert trained == ["seed-2"]
    assert {p: p.stat().st_mtime_ns for p in before} == before
    table = capsys.readouterr().out
    assert "±" in table and "n=3" in table and "seeds.json" in table
    assert len(table.splitlines()) == 2 + 3 + 1 + 1


def test_a_sweep_runs_the_grid_ranks_by_validation_and_goes_on(tmp_path, capsys):
    arguments = [
        *flags(npz(tmp_path / "data.npz")),
        f"--workdir={tmp_path / 'sweep'}",
        "--sweep=config.optim.learning_rate=1e-6,0.01",
        "--sweep=loss.l2=0",
        "--quiet",
    ]
    assert launch(*arguments) == 0
    first = capsys.readouterr().out
    names = sorted(p.name for p in (tmp_path / "sweep").iterdir() if p.is_dir())
    assert names == ["optim.learning_rate=0.01,loss.l2=0", "optim.learning_rate=1e-6,loss.l2=0"]
    rates = [run["config"]["optim"]["learning_rate"] for run in reports(tmp_path / "sweep")]
    assert sorted(rates) == [1e-6, 0.01]
    rows = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    assert [row[0]["optim.learning_rate"] for row in rows] == ["1e-6", "0.01"]
    assert rows[0][1]["validation_accuracy"] < rows[1][1]["validation_accuracy"]
    assert not any(name.startswith("test") for name in rows[0][1])  # nobody chooses by test
    table = [line for line in first.splitlines() if "%" in line]
    assert "0.01" in table[0] and "1e-6" in table[1]  # best first
    (tmp_path / "data.npz").unlink()
    assert launch(*arguments) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if "%" in line] == table


def test_a_run_of_a_sweep_that_diverges_is_a_row_without_numbers(tmp_path, capsys):
    data = npz(tmp_path / "data.npz")
    rates = "--sweep=optim.learning_rate=1e38,0.01"
    changes = ["--config.optim.name=sgd", rates, f"--workdir={tmp_path / 'sweep'}", "--quiet"]
    assert launch(*flags(data), *changes) == 0
    assert "diverged" in capsys.readouterr().out
    rows = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    scores = [row[1]["validation_accuracy"] for row in rows]
    assert scores[0] is None and scores[1] is not None


def test_a_sweep_without_validation_examples_is_refused(tmp_path, capsys):
    """There would be nothing to choose by but the test part."""
    changes = ["--config.data.validation=0", "--sweep=seed=0,1", f"--workdir={tmp_path / 'sweep'}"]
    assert launch(*flags(npz(tmp_path / "data.npz")), *changes) == 2
    assert "--config.data.validation=10000" in capsys.readouterr().err
    assert not (tmp_path / "sweep").exists()


def test_a_wrong_value_is_refused_before_anything_runs(tmp_path, capsys):
    data = npz(tmp_path / "data.npz")
    sweep = ["--sweep=train.epochs=1,many", f"--workdir={tmp_path / 'sweep'}"]
    assert launch(*flags(data), *sweep) == 2
    assert "config.train.epochs must be a number, got 'many'" in capsys.readouterr().err
    assert not (tmp_path / "sweep").exists()
