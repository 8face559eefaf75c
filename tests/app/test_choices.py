"""What a pipeline gives to choose by: its stages' accuracy on validation images, and bytes."""

import json

import numpy as np
import pytest

import hcjax
from tests.app.test_pipeline import (
    made,  # noqa: F401
    networks,
)
from tests.tiny import flags, launch, npz, trained

pytestmark = pytest.mark.slow


def test_a_sweep_chooses_by_the_last_stages_validation(tmp_path, capsys):
    arguments = [
        *flags(npz(tmp_path / "data.npz")), f"--workdir={tmp_path}", "--quiet",
        f"--config.teacher={trained()}", "--config.stages=('prune',)",
        "--sweep=prune.sparsity=0.999,0.25",
    ]  # fmt: skip
    assert launch(*arguments) == 0
    table = [line for line in capsys.readouterr().out.splitlines() if "%" in line]
    rows = json.loads((tmp_path / "sweep.json").read_text())
    for (settings, numbers), line in zip(rows, reversed(table), strict=True):
        folder = tmp_path / f"prune.sparsity={settings['prune.sparsity']}"
        last = json.loads((folder / "report.json").read_text())["stages"][-1]
        assert numbers.keys() == {"validation_accuracy", "file_bytes", "seconds"}
        assert all(numbers[key] == last[key] for key in ("validation_accuracy", "file_bytes"))
        assert line.split()[:2] == [
            settings["prune.sparsity"], f"{100 * last['validation_accuracy']:.2f}",
        ]  # fmt: skip
    assert rows[0][1]["validation_accuracy"] < rows[1][1]["validation_accuracy"]


def test_without_validation_examples_the_stages_have_no_number_to_choose_by(tmp_path, capsys):
    arguments = [
        *flags(npz(tmp_path / "data.npz")), f"--workdir={tmp_path / 'run'}",
        f"--config.teacher={trained()}", "--config.stages=('trim',)", "--config.data.validation=0",
    ]  # fmt: skip
    assert launch(*arguments) == 0
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert [stage["validation_accuracy"] for stage in report["stages"]] == [None, None]
    assert report["validation_accuracy"] is None
    assert "validation" not in capsys.readouterr().out.split("images/s")[0].split("stage ")[-1]


def test_every_stage_is_scored_on_validation_images_too(made):  # noqa: F811
    workdir = made[1]
    path = workdir.parent / "data.npz"
    kept = hcjax.data.load("npz", path=path, validation=16, seed=0).validation
    report = json.loads((workdir / "report.json").read_text())
    for stage, blob in zip(report["stages"], networks(workdir).values(), strict=True):
        model = hcjax.unpack(blob)
        mean, std = (np.float32(model.about[key]) for key in ("mean", "std"))
        images = (np.asarray(kept.images, np.float32) / 255 - mean) / std
        right = np.asarray(model.apply(model.params, images)).argmax(1) == kept.labels
        assert stage["validation_accuracy"] == pytest.approx(right.mean())
    last = report["stages"][-1]
    for key in ("validation_accuracy", "file_bytes"):
        assert report[key] == last[key]
