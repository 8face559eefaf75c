"""`--eval`: a trained workdir on its own data and on other data."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.tiny import CLASSES, ROOT, TEST_EXAMPLES, images, launch, npz, trained

DEFAULT = f"--config={ROOT / 'configs' / 'default.py'}"


def evaluated(capsys, *arguments):
    """Returns what --eval wrote, which is also what it printed."""
    capsys.readouterr()
    assert launch(f"--eval={trained()}", *arguments) == 0, capsys.readouterr().err
    last = capsys.readouterr().out.splitlines()[-1]
    return json.loads(Path(last.removeprefix("in ")).read_text())


def refused(capsys, *arguments):
    capsys.readouterr()
    code = launch(*arguments)
    error = capsys.readouterr().err
    assert code == 2 and error.startswith("error: ") and error.count("\n") == 1, error
    return error


def other_data(path):
    return ["--config.data.source=npz", f"--config.data.path={path}"]


def test_eval_on_the_runs_own_data_gives_the_runs_own_numbers(capsys):
    report = json.loads((trained() / "report.json").read_text())
    found = evaluated(capsys)
    for key in ("test_accuracy", "test_error", "test_examples", "nll", "ece"):
        assert found[key] == report[key], key
    assert json.loads((trained() / "report.json").read_text()) == report


@pytest.mark.parametrize("config", [[], [DEFAULT]], ids=["run's config", "default config"])
def test_eval_on_another_source_scores_every_test_example(capsys, tmp_path, config):
    path = npz(tmp_path / "other.npz", train=3, test=30)  # fewer than the run's validation
    found = evaluated(capsys, *config, *other_data(path))
    assert found["test_examples"] == 30
    assert found["test_accuracy"] > 0.9


def test_eval_uses_the_normalisation_of_the_training(capsys, tmp_path):
    # the same test part beside a training part of other brightness
    same = np.load(trained().parent / "data.npz")
    arrays = {key: same[key] for key in same.files}
    arrays["x_train"] = arrays["x_train"] // 9
    np.savez(tmp_path / "other.npz", **arrays)
    report = json.loads((trained() / "report.json").read_text())
    assert evaluated(capsys, *other_data(tmp_path / "other.npz"))["nll"] == report["nll"]


def test_eval_fits_images_to_the_networks_size_and_channels(capsys, tmp_path):
    path = npz(tmp_path / "large.npz", side=16, channels=3)
    assert evaluated(capsys, *other_data(path))["test_examples"] == TEST_EXAMPLES


def test_eval_on_images_fitted_to_another_size_is_refused(capsys, tmp_path):
    path = npz(tmp_path / "other.npz")
    size = "--config.data.image_size=9"
    message = refused(capsys, f"--eval={trained()}", *other_data(path), size)
    assert "takes images [8, 8, 1], the data has [9, 9, 1]" in message


@pytest.mark.parametrize("classes", [("ant", "bee", "dog"), ("bee", "ant", "cat"), None])
def test_eval_on_other_classes_is_refused_naming_both(capsys, tmp_path, classes):
    path = npz(tmp_path / "other.npz", classes=classes)
    message = refused(capsys, f"--eval={trained()}", *other_data(path))
    assert "ant, bee, cat (3)" in message
    assert f"{', '.join(classes or '012')} (3)" in message


def test_eval_on_a_folder_of_idx_files_of_other_classes_is_refused(capsys, tmp_path):
    for part, count in (("train", 6), ("t10k", 3)):
        x, y = images(count)
        header = bytes([0, 0, 8, 3, 0, 0, 0, count, 0, 0, 0, 8, 0, 0, 0, 8])
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(header + x.tobytes())
        header = bytes([0, 0, 8, 1, 0, 0, 0, count])
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(header + y.astype(np.uint8).tobytes())
    arguments = [
        f"--eval={trained()}",
        "--config.data.source=idx",
        f"--config.data.path={tmp_path}",
    ]
    assert "0, 1, 2 (3)" in refused(capsys, *arguments)
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES))
    assert evaluated(capsys, *arguments[1:])["test_examples"] == 3


def test_eval_on_a_folder_of_pictures(capsys, tmp_path):
    x, y = images(12, side=8)
    for i, (image, label) in enumerate(zip(x, y, strict=True)):
        place = tmp_path / ("train" if i < 6 else "test") / CLASSES[label]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).save(place / f"{i}.png")
    arguments = ["--config.data.source=folder", f"--config.data.path={tmp_path}"]
    found = evaluated(capsys, *arguments)
    assert found["test_examples"] == 6 and found["test_accuracy"] > 0.9


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (["--config.seed=1"], "config.seed has no use"),
        (["--config.data.limit=abc"], "config.data.limit must be a whole number"),
        (["--config.data.sauce=npz"], "did you mean config.data.source?"),
        (["--config.data.source=npz"], "needs a path"),
        (["--config.data.path=/no/such.npz"], "/no/such.npz"),
        (["--config.data.test=0.5", "--config.train.epochs=1"], "config.train.epochs has no use"),
    ],
)
def test_a_mistake_with_eval_is_one_message(capsys, changes, expected):
    assert expected in refused(capsys, f"--eval={trained()}", *changes)


def test_eval_of_a_folder_without_a_run_is_refused(capsys, tmp_path):
    assert "holds no run" in refused(capsys, f"--eval={tmp_path}")
    (tmp_path / "checkpoints").mkdir()
    assert "no finished checkpoint" in refused(capsys, f"--eval={tmp_path}")


def test_eval_of_packed_networks_names_the_command_that_scores_them(capsys, tmp_path):
    path = tmp_path / "0-float.hcz"
    path.touch()
    for workdir in (tmp_path, path):
        assert f"`hcjax verify {workdir}`" in refused(capsys, f"--eval={workdir}")
