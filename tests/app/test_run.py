"""One tiny run through launch.py in its own process, twice; then what its workdir holds."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from configs import default
from hcjax.app import run
from hcjax.config.reader import flatten, to_dict
from hcjax.data import batches
from hcjax.report import writers
from tests.tiny import CLASSES, ROOT, TEST_EXAMPLES, flags, launch, npz, trained

# the keys that every report.json has; others may follow
KEYS = {
    "config", "seed", "test_accuracy", "test_error", "test_examples", "nll", "ece", "parameters",
    "weight_bytes", "train_seconds", "seconds_to_first_step", "images_per_second",
    "peak_memory_bytes", "params_sha256", "versions", "device", "per_class", "confusion",
    "class_names", "validation_accuracy", "steps", "stopped", "best_step", "git_commit",
}  # fmt: skip
SEED_CNN = ("--config.model.name=seed_cnn", "--config.optim.learning_rate=0.01")
# a package in TensorFlow's place: it leaves a mark where it is imported, and nobody expects it
TENSORFLOW = "import os; open(os.environ['MARK'], 'w').close(); raise RuntimeError('tensorflow')"


def command(folder, *changes):
    """Runs launch.py in `folder` and returns its output."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(folder / "fake"),
        "MARK": str(folder / "mark"),
        "JAX_PLATFORMS": "cpu",
    }
    arguments = [*flags(folder / "data.npz", cache=folder / "cache"), *changes]
    done = subprocess.run(
        [sys.executable, ROOT / "launch.py", *arguments],
        cwd=folder, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """Returns (folder, what the first launch printed)."""
    folder = tmp_path_factory.mktemp("launched")
    (folder / "fake" / "tensorflow").mkdir(parents=True)
    (folder / "fake" / "tensorflow" / "__init__.py").write_text(TENSORFLOW)
    npz(folder / "data.npz")
    return folder, command(folder, "--workdir=run", *SEED_CNN)


@pytest.fixture(scope="module")
def report(launched):
    return json.loads((launched[0] / "run" / "report.json").read_text())


def test_the_first_lines_say_platform_devices_hosts_threads_cache_and_workdir(launched):
    folder, text = launched
    first, second, third, fourth = text.splitlines()[:4]
    assert re.fullmatch(r"platform cpu: \d+ devices? \(cpu\), host 0 of 1, \d+ threads", first)
    assert "python" in second and "jax" in second and "jaxlib" in second
    assert third.startswith(f"compilation cache: {folder / 'cache'}") and "(0 programs)" in third
    assert fourth == f"workdir {folder / 'run'}"


def test_no_run_imports_tensorflow(launched):
    assert not (launched[0] / "mark").exists()


def test_the_stand_in_for_tensorflow_would_be_noticed(launched):
    folder = launched[0]
    environment = {**os.environ, "PYTHONPATH": str(folder / "fake"), "MARK": str(folder / "seen")}
    subprocess.run([sys.executable, "-c", "import tensorflow"], env=environment, stderr=-3)
    assert (folder / "seen").exists()


def test_a_second_launch_takes_every_program_from_the_cache(launched):
    folder, text = launched
    pattern = r"compilation cache: (\d+) hits, (\d+) misses"
    hits, misses = map(int, re.search(pattern, text).groups())
    assert misses > 5  # small ones too: each compiles in less than a second
    again = command(folder, "--workdir=again", *SEED_CNN)
    found, missed = map(int, re.search(pattern, again).groups())
    # the first launch also tried the compiler's options; the second has read the answer
    assert missed == 0 and 5 < found <= hits + misses


def test_the_report_has_every_key(report):
    assert set(report) >= KEYS


def test_the_reports_numbers_are_those_of_the_confusion_matrix(report):
    confusion = np.array(report["confusion"])
    assert confusion.sum() == report["test_examples"] == TEST_EXAMPLES
    assert confusion.sum(1).tolist() == [7, 7, 7]
    assert report["test_accuracy"] == np.trace(confusion) / TEST_EXAMPLES
    assert report["test_error"] == pytest.approx(1 - report["test_accuracy"])
    assert report["per_class"] == pytest.approx(np.diag(confusion) / 7)


def test_the_tiny_network_learned(report):
    assert report["test_accuracy"] > 0.9  # one class in three would be 0.33


def test_the_reports_other_facts_are_right(report):
    # seed_cnn on 8 x 8 x 1, three classes: 9·32 + 32 and, after the pool, 3·3·32·3 + 3
    assert report["parameters"] == 320 + 867
    assert report["weight_bytes"] == 4 * report["parameters"]
    assert re.fullmatch("[0-9a-f]{64}", report["params_sha256"])
    assert report["seed"] == 0 and report["steps"] == 4 and report["stopped"] == "steps"
    assert report["class_names"] == list(CLASSES)
    assert 0 < report["seconds_to_first_step"] < 600 and report["images_per_second"] > 0
    assert 2**26 < report["peak_memory_bytes"] < 2**36  # of the process, which runs other tests too
    assert {"python", "jax", "jaxlib", "numpy", "optax"} <= set(report["versions"])
    assert "cpu" in report["device"] and "threads" in report["device"]
    assert flatten(report["config"]).keys() == flatten(to_dict(default.get_config())).keys()


def test_the_workdir_holds_config_versions_seed_and_commit(launched, report):
    workdir = launched[0] / "run"
    assert json.loads((workdir / "config.json").read_text()) == report["config"]
    facts = json.loads((workdir / "run.json").read_text())
    assert facts["seed"] == 0 and facts["versions"] == report["versions"]
    assert facts["git_commit"] is None or re.match("[0-9a-f]{40}", facts["git_commit"])
    assert "--workdir=run" in facts["command"]


@pytest.mark.parametrize("name", ["curves", "confusion", "filters"])
def test_the_workdir_holds_the_pictures(launched, name):
    picture = (launched[0] / "run" / f"{name}.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) > 2000


def test_the_metrics_have_every_step_and_validation_once(launched):
    lines = writers.read_metrics(launched[0] / "run")
    assert [line["step"] for line in lines if line["split"] == "validation"] == [2, 4]
    assert [line["step"] for line in lines if line["split"] == "train"] == [2, 4]
    events = (launched[0] / "run" / "tensorboard").rglob("events.out.tfevents.*")
    assert len(list(events)) == 2


def test_a_finished_run_is_printed_again_without_touching_data(capsys, tmp_path):
    data = npz(tmp_path / "data.npz")
    arguments = [*flags(data), f"--workdir={tmp_path / 'run'}"]
    assert launch(*arguments) == 0
    table = capsys.readouterr().out.split("result ")[1].split("the report and")[0]
    before = (tmp_path / "run" / "report.json").read_bytes()
    data.unlink()
    assert launch(*arguments) == 0
    again = capsys.readouterr().out
    assert "this run is finished" in again and table.strip() in again
    assert (tmp_path / "run" / "report.json").read_bytes() == before


def test_test_images_are_read_after_the_last_step_only(tmp_path, monkeypatch):
    order = []
    train, evaluate = batches.train_batches, batches.eval_batches

    def note_train(split, **options):
        for batch in train(split, **options):
            order.append("train")
            yield batch

    def note_evaluate(split, **options):
        order.append("test" if len(split.labels) == TEST_EXAMPLES else "validation")
        return evaluate(split, **options)

    monkeypatch.setattr(batches, "train_batches", note_train)
    monkeypatch.setattr(batches, "eval_batches", note_evaluate)
    assert launch(*flags(npz(tmp_path / "a.npz")), f"--workdir={tmp_path / 'run'}", "--quiet") == 0
    assert order == ["train", "train", "validation", "train", "train", "validation", "test"]


def test_run_takes_nested_dicts_and_returns_the_report(tmp_path):
    config = json.loads((trained() / "config.json").read_text())
    config["train"]["epochs"] = 0.0
    found = run.run(config, tmp_path, quiet=True)
    assert found["steps"] == 0 and found["test_examples"] == TEST_EXAMPLES
    assert found["validation_accuracy"] is None
    assert json.loads((tmp_path / "report.json").read_text())["nll"] == found["nll"]


def test_early_stopping_reports_the_best_validation(tmp_path):
    config = json.loads((trained() / "config.json").read_text())
    config["train"] |= {"patience": 1, "epochs": 8.0}
    config["optim"] |= {"learning_rate": 0.3}  # gets worse soon
    found = run.run(config, tmp_path, quiet=True)
    lines = [x for x in writers.read_metrics(tmp_path) if x["split"] == "validation"]
    best = min(lines, key=lambda line: line["nll"])
    assert found["stopped"] == "patience" and found["steps"] == lines[-1]["step"]
    assert found["best_step"] == best["step"] < found["steps"]
    assert found["validation_accuracy"] == best["accuracy"]


def test_profile_writes_a_trace(tmp_path):
    data = npz(tmp_path / "data.npz")
    changes = ["--config.train.batch_size=2", "--config.train.epochs=1", "--profile", "--quiet"]
    assert launch(*flags(data), *changes, f"--workdir={tmp_path / 'run'}") == 0
    assert list((tmp_path / "run" / "profile").rglob("*.xplane.pb"))


def test_a_start_with_other_versions_warns_and_goes_on(tmp_path, capsys):
    run = tmp_path / "run"
    arguments = [*flags(npz(tmp_path / "data.npz")), "--config.train.epochs=0", f"--workdir={run}"]
    assert launch(*arguments, "--quiet") == 0
    assert "versions" not in capsys.readouterr().err
    (run / "report.json").unlink()
    (run / "run.json").write_text('{"versions": {"jax": "0.1"}}')
    assert launch(*arguments, "--quiet") == 0
    assert "begun with other versions" in capsys.readouterr().err
