"""The command line with other tasks, and other data, than labelled images."""

import json

import numpy as np
import pytest

import hcjax
from configs import default
from hcjax.app import commands, compare, verify
from hcjax.config.reader import differences
from hcjax.runs import saved
from hcjax.runs.workdir import load
from tests.tiny import flags, folder, launch


def table(path, count, *, names=None, seed=0):
    """Writes rows of three numbers and one to predict: a sum, or its class by `names`."""
    x = np.random.default_rng(seed).normal(size=(count, 3))
    y = 2 * x[:, 0] - x[:, 1]
    words = [f"{v:.4f}" if names is None else names[int(v > 0)] for v in y]
    lines = ["a,b,c,target"] + [",".join([*(f"{v:.4f}" for v in r), w]) for r, w in zip(x, words)]  # noqa: B905
    path.write_text("\n".join(lines) + "\n")
    return path


def keys(place, **changes):
    """Returns the arguments of a run on a folder of tables."""
    ours = {
        "data.source": "csv", "data.path": place, "data.target": "target", "data.validation": 20,
        "model.name": "mlp_tiny", "train.epochs": 8, "optim.learning_rate": 0.01,
        "train.batch_size": 16, **changes,
    }  # fmt: skip
    return [*flags(place), *(f"--config.{k}={v}" for k, v in ours.items())]


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    """Returns (arguments, workdir) of a finished pipeline of regression."""
    place = tmp_path_factory.mktemp("numbers")
    table(place / "train.csv", 200), table(place / "test.csv", 60, seed=1)
    stages = {"stages": "('prune','quantize')", "prune.sparsity": 0.3, "quantize.epochs": 1}
    arguments = keys(place, task="regression", **stages)
    assert launch(*arguments, "--quiet", f"--workdir={place / 'run'}") == 0
    return arguments, place / "run"


@pytest.mark.slow
def test_a_pipeline_of_regression_reports_its_own_scores(numbers, capsys):
    _, workdir = numbers
    trained = json.loads((workdir / "train" / "report.json").read_text())
    assert {"test_mse", "test_mae", "test_r2", "validation_r2"} <= set(trained)
    assert trained["test_r2"] > 0.5 and not {"nll", "test_accuracy"} & set(trained)
    for name in ("curves", "predicted"):
        assert (workdir / "train" / f"{name}.png").stat().st_size > 1000
    report = json.loads((workdir / "report.json").read_text())
    assert report["task"] == "regression" and report["score"] == "r2"
    assert [row["name"] for row in report["stages"]] == [
        "float", "pruned", "quantized", "quantized-trained",
    ]  # fmt: skip
    assert report["stages"][0]["accuracy"] == pytest.approx(trained["test_r2"], abs=1e-4)
    # what ships says what it is for, and how new rows are made ready for it
    model, about = saved.load_any(workdir / "3-quantized-trained.hcz")
    assert about["task"] == "regression" and "mean" not in about
    rows = [{"a": 1.0, "b": -1.0, "c": 0.0}]
    found = model.apply(model.params, hcjax.data.encode(rows, about["inputs"]))
    assert found.shape == (1, 1) and abs(float(found[0, 0]) - 3) < 1.5
    network = load(workdir / "train")
    near = network(hcjax.data.encode(rows, network.facts["about"]))
    assert abs(float(near[0, 0]) - 3) < 1.5


@pytest.mark.slow
def test_rows_of_a_table_are_predicted(numbers, capsys, tmp_path):
    _, workdir = numbers
    (tmp_path / "new.csv").write_text("c,b,a\n0,-1,1\n0,1,-1\nx,0,0\n")
    arguments = ["hcjax", "predict", workdir, tmp_path / "new.csv", f"--json={tmp_path / 'p.json'}"]
    assert commands.main(list(map(str, arguments))) == 2
    output = capsys.readouterr()
    assert "new.csv, row 1" in output.out and "expected a number, got 'x'" in output.err
    one, other, wrong = json.loads((tmp_path / "p.json").read_text())
    assert one["prediction"][0] > 1 and other["prediction"][0] < -1 and "problem" in wrong


@pytest.mark.slow
def test_its_files_are_verified_and_compared_on_new_rows_as_in_training(numbers, capsys, tmp_path):
    _, workdir = numbers
    packed = sorted(map(str, workdir.glob("*.hcz")))
    cache = f"--config.cache_dir={folder() / 'cache'}"
    out = f"--json={tmp_path / 'v.json'}"
    assert verify.main(["verify", *packed, "--notimed", out, cache]) == 0
    stages = json.loads((workdir / "report.json").read_text())["stages"]
    found = json.loads((tmp_path / "v.json").read_text())
    assert [r["accuracy"] for r in found] == [r["accuracy"] for r in stages]
    assert {r["score"] for r in found} == {"r2"}
    assert compare.main(["compare", *packed[:2], "--notimed", out, cache]) == 0
    # other rows, standardised by the statistics of training: the scores of a shifted column differ
    place = tmp_path / "other"
    place.mkdir()
    table(place / "train.csv", 50, seed=5), table(place / "test.csv", 60, seed=1)
    same = f"--config.data.path={place}"
    assert verify.main(["verify", packed[0], "--notimed", out, cache, same]) == 0
    assert json.loads((tmp_path / "v.json").read_text())[0]["accuracy"] == stages[0]["accuracy"]
    assert launch(f"--eval={workdir / 'train'}", same, cache) == 0
    assert "test r2" in capsys.readouterr().out


@pytest.mark.slow
def test_classes_of_rows_are_trained_swept_and_drawn(tmp_path, capsys):
    place = tmp_path / "rows"
    place.mkdir()
    table(place / "train.csv", 160, names=("no", "yes"))
    table(place / "test.csv", 60, names=("no", "yes"), seed=1)
    arguments = keys(place, **{"train.epochs": 2})
    assert (
        launch(*arguments, f"--workdir={tmp_path / 'w'}", "--sweep=optim.learning_rate=1e-3,0.03")
        == 0
    )
    text = capsys.readouterr().out
    assert (
        "class, examples  train  validation  test" in text and "equal inputs across parts" in text
    )
    assert "validation accuracy" in text
    (best, _) = json.loads((tmp_path / "w" / "sweep.json").read_text())
    assert len(best) == 2
    assert list(tmp_path.glob("w/*/confusion.png")) and not list(tmp_path.glob("w/*/mistakes.png"))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"task": "regresion"}, "unknown task 'regresion'; did you mean 'regression'?"),
        ({"model.name": "lenet5"}, "input_shape must be three sizes (H, W, C), got (3,)"),
        ({"data.target": "goal"}, "unknown column 'goal'"),
        ({"loss.name": "focal"}, "unknown loss of regression 'focal'"),
        ({"loss.smoothing": 0.1}, "unknown option of the loss of regression 'smoothing'"),
        ({"loss.class_weights": "balanced"}, "class_weights is of classes"),
        ({"train.monitor": "nll"}, "monitor must be one of ['mae', 'mse', 'r2'], got 'nll'"),
        ({"data.text": "a"}, "inputs {'numbers': float32[N, 2], 'text'"),
        ({"augment.use": "('shift',)"}, "augmentation 'shift' is of images"),
        (
            {"stages": "('quantize',)", "distill.loss": "decoupled"},
            "decoupled needs one label an example, and config.task is regression",
        ),
    ],
)
def test_what_does_not_go_together_is_named(tmp_path, capsys, changes, message):
    table(tmp_path / "train.csv", 60), table(tmp_path / "test.csv", 30, seed=1)
    arguments = keys(tmp_path, **{"task": "regression", "train.epochs": 1, **changes})
    assert launch(*arguments, "--quiet", f"--workdir={tmp_path / 'w'}") == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1, error


def test_a_config_of_before_there_were_tasks_is_the_same_run():
    now = default.get_config()
    before = now.to_dict() | {"loss": {**now.loss.to_dict(), "name": "cross_entropy"}}
    before["train"] = now.train.to_dict() | {"monitor": "nll"}
    before["distill"] = now.distill.to_dict() | {"loss": "kl"}
    del before["task"]
    assert differences(now, before) == {}
    assert differences(now.to_dict() | {"task": "regression"}, before)
