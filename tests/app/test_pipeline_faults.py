"""Pipelines that are stopped inside a stage's training, or find a stage's file damaged."""

import signal

import pytest

from hcjax.train import session
from tests import processes
from tests.app.test_pipeline import (
    networks,
)
from tests.tiny import flags, launch, npz, trained

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("pruned", {"stages": "('prune',)", "prune.sparsity": 0.75, "prune.method": "fisher"}),
        ("quantized-trained", {"stages": "('quantize',)", "quantize.images": 16}),
        (
            "student-2",
            {"stages": "('distill',)", "student.name": "seed_cnn_tiny", "distill.generations": 2},
        ),
    ],
)
def test_a_pipeline_told_to_stop_in_a_training_goes_on_to_the_same_bits(
    tmp_path, monkeypatch, capsys, name, changes
):
    """SIGTERM in step 3 of 4; the checkpoints are of 2, 3 and 4."""
    epochs = {f"{changes['stages'][2:-3]}.epochs": 2}
    changes = changes | epochs | {"teacher": trained(), "train.checkpoint_every": 2}
    base = [*flags(npz(tmp_path / "data.npz")), *(f"--config.{k}={v}" for k, v in changes.items())]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert launch(*base, f"--workdir={whole}", "--quiet") == 0
    add = session.Session.add

    def interrupted(self, *args):
        add(self, *args)
        if self.step == 3 and (parts / name).exists():
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(session.Session, "add", interrupted)
        assert launch(*base, f"--workdir={parts}") == 0
    assert "preempted" in capsys.readouterr().out
    assert processes.steps(parts / name) == [2, 3] and not (parts / "report.json").exists()
    assert networks(parts).keys() == set(list(networks(whole))[:-1])
    assert launch(*base, f"--workdir={parts}", "--quiet") == 0
    assert processes.steps(parts / name)[-1] == 4
    assert networks(parts) == networks(whole)


@pytest.mark.parametrize("kept", [0, -3])
def test_a_damaged_file_of_a_stage_is_named_with_its_cure(tmp_path, capsys, kept):
    workdir = tmp_path / "run"
    base = [
        *flags(npz(tmp_path / "data.npz")), f"--workdir={workdir}", "--quiet",
        f"--config.teacher={trained()}", "--config.stages=('trim',)",
    ]  # fmt: skip
    assert launch(*base) == 0
    path = workdir / "1-trimmed.hcz"
    whole = path.read_bytes()
    path.write_bytes(whole[:kept])
    (workdir / "report.json").unlink()
    assert launch(*base) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"error: {path}: ") and "remove it to make it again" in message
    path.unlink()
    assert launch(*base) == 0
    assert path.read_bytes() == whole
