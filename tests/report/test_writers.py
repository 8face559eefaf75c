import json
import math
import resource
import struct
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from hcjax import errors
from hcjax.report import writers


def _events(workdir, split):
    """Returns every event of a split, read by the format's own definition."""
    from tensorboardX.proto import event_pb2

    found = []
    for path in sorted((workdir / "tensorboard" / split).iterdir()):
        content = path.read_bytes()
        while content:
            (size,) = struct.unpack("<Q", content[:8])
            found.append(event_pb2.Event.FromString(content[12 : 12 + size]))
            content = content[16 + size :]
    return found


def _steps(workdir):
    return [(record["step"], record["split"]) for record in writers.read_metrics(workdir)]


def test_lines_come_back_as_they_were_written(tmp_path):
    with writers.MetricWriter(tmp_path / "run", tensorboard=False) as writer:
        writer.write(1, "train", {"loss": jnp.float32(0.5), "count": np.int64(64)})
        writer.write(1, "validation", {"accuracy": 0.25})
    assert writers.read_metrics(tmp_path / "run") == [
        {"step": 1, "split": "train", "loss": 0.5, "count": 64.0},
        {"step": 1, "split": "validation", "accuracy": 0.25},
    ]


def test_a_line_is_in_the_file_before_write_returns(tmp_path):
    writer = writers.MetricWriter(tmp_path, tensorboard=False)
    writer.write(1, "train", {"loss": 0.5})
    assert (
        tmp_path / "metrics.jsonl"
    ).read_text() == '{"step": 1, "split": "train", "loss": 0.5}\n'
    writer.close()


def test_what_is_not_finite_is_null_in_the_file_and_nan_when_read(tmp_path):
    with writers.MetricWriter(tmp_path) as writer:
        writer.write(1, "train", {"loss": jnp.float32("inf"), "grad_norm": math.nan})
    line = (tmp_path / "metrics.jsonl").read_text()
    parsed = json.loads(line, parse_constant=pytest.fail)
    assert parsed == {"step": 1, "split": "train", "loss": None, "grad_norm": None}
    (record,) = writers.read_metrics(tmp_path)
    assert math.isnan(record["loss"])
    assert _events(tmp_path, "train")[-1].summary.value[0].simple_value == math.inf


def test_a_resume_drops_what_a_killed_run_wrote_after_its_checkpoint(tmp_path):
    with writers.MetricWriter(tmp_path, tensorboard=False) as writer:
        for step in range(1, 8):
            writer.write(step, "train", {"loss": float(step)})
        writer.write(5, "validation", {"loss": 0.0})
    with writers.MetricWriter(tmp_path, 5, tensorboard=False) as writer:
        writer.write(6, "train", {"loss": 60.0})
    kept = [(step, "train") for step in range(1, 6)]
    assert _steps(tmp_path) == [*kept, (5, "validation"), (6, "train")]
    assert writers.read_metrics(tmp_path)[-1]["loss"] == 60.0


def test_a_killed_and_resumed_run_leaves_the_same_bytes_as_one_without(tmp_path):
    def run(workdir, start, stop):
        with writers.MetricWriter(workdir, start, tensorboard=False) as writer:
            for step in range(start + 1, stop + 1):
                writer.write(step, "train", {"loss": 1 / step})

    run(tmp_path / "whole", 0, 20)
    run(tmp_path / "cut", 0, 13)
    with open(tmp_path / "cut" / "metrics.jsonl", "ab") as file:
        file.write(b'{"step": 14, "spl')
    run(tmp_path / "cut", 10, 20)
    whole, cut = ((tmp_path / name / "metrics.jsonl").read_bytes() for name in ("whole", "cut"))
    assert cut == whole


@pytest.mark.parametrize("tail", [b'{"step": 2, "sp', b'{"step": 2, "split": "train"}', b"\0\0"])
def test_a_half_written_last_line_is_passed_over(tmp_path, tail, recwarn):
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1, "split": "train"}\n' + tail)
    assert _steps(tmp_path) == [(1, "train")]
    with writers.MetricWriter(tmp_path, 9, tensorboard=False) as writer:
        writer.write(10, "train", {})
    assert _steps(tmp_path) == [(1, "train"), (10, "train")]
    assert not recwarn


@pytest.mark.parametrize("line", [b"\0\0\0", b"[1]", b'{"split": "train"}', b'{"step": "a"}'])
def test_a_damaged_line_is_passed_over_with_a_warning_that_names_it(tmp_path, line):
    good = b'{"step": 1, "split": "train"}\n'
    (tmp_path / "metrics.jsonl").write_bytes(good + line + b"\n" + good.replace(b"1", b"2"))
    with pytest.warns(UserWarning, match=r"metrics\.jsonl, line 2: expected a JSON object"):
        assert _steps(tmp_path) == [(1, "train"), (2, "train")]


def test_the_old_file_stays_when_it_cannot_be_replaced(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1, "split": "train"}\n{"step": 9, "split": "train"}\n')

    def broken(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", broken)
    with pytest.raises(errors.CheckpointError, match="No space left"):
        writers.MetricWriter(tmp_path, 1)
    assert _steps(tmp_path) == [(1, "train"), (9, "train")]


def test_several_lines_of_one_step_are_one_record(tmp_path):
    with writers.MetricWriter(tmp_path, tensorboard=False) as writer:
        writer.write(0, "validation", {"loss": 1.0})
        writer.write(0, "validation", {"loss": 2.0, "accuracy": 0.5})
    expected = {"step": 0, "split": "validation", "loss": 2.0, "accuracy": 0.5}
    assert writers.read_metrics(tmp_path) == [expected]


def test_wrong_names_are_refused(tmp_path):
    with writers.MetricWriter(tmp_path, tensorboard=False) as writer:
        with pytest.raises(ValueError, match="one of train, validation, test, got 'valid'"):
            writer.write(1, "valid", {})
        with pytest.raises(ValueError, match="'step' is set by the writer"):
            writer.write(1, "train", {"step": 2})
    assert writers.read_metrics(tmp_path) == []


def test_tensorboard_has_the_same_scalars_and_hides_what_the_resume_repeats(tmp_path):
    for start in (0, 2):
        with writers.MetricWriter(tmp_path, start) as writer:
            for step in range(start + 1, 5):
                writer.write(step, "train", {"loss": step / 4, "accuracy": 0.5})
    events = _events(tmp_path, "train")
    scalars = [(e.step, v.tag, v.simple_value) for e in events for v in e.summary.value]
    both = [pair for s in (1, 2, 3, 4, 3, 4) for pair in ((s, "loss", s / 4), (s, "accuracy", 0.5))]
    assert scalars == both
    # TensorBoard drops steps >= that of a START mark: 1 (all) in the first file, 3 in the second
    assert [e.step for e in events if e.session_log.status == 1] == [1, 3]
    assert [e.file_version for e in events if e.file_version] == ["brain.Event:2"] * 2


def test_a_full_disk_is_one_clear_error_and_earlier_lines_stay(tmp_path):
    writer = writers.MetricWriter(tmp_path, tensorboard=False)
    writer.write(1, "train", {"loss": 0.5})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        # the system takes what fits, then refuses; Python ignores the signal that goes with it
        resource.setrlimit(resource.RLIMIT_FSIZE, (60, hard))
        with pytest.raises(
            errors.CheckpointError, match=r"cannot write .*metrics\.jsonl: File too"
        ):
            writer.write(2, "train", {"loss": 0.25})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    writer.close()
    assert _steps(tmp_path) == [(1, "train")]


def test_tensorboard_is_imported_at_the_first_write_and_tensorflow_never(tmp_path):
    code = f"""
import sys
from hcjax.report import canvas, curves, plots, progress, tables, writers
heavy = {{"matplotlib", "tensorboardX", "tqdm"}}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
writer = writers.MetricWriter({str(tmp_path)!r})
assert not heavy & set(sys.modules)
writer.write(1, "train", {{"loss": 1.0}})
assert "tensorboardX" in sys.modules
figure = curves.draw_learning_curves(writers.read_metrics({str(tmp_path)!r}))
canvas.save(figure, {str(tmp_path / "a.png")!r})
assert not {{"tensorflow", "matplotlib.pyplot"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
