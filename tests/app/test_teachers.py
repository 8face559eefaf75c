"""Who teaches in a pipeline: a workdir, an ensemble, a student; and by how much it counts."""

import itertools
import json

import pytest

import hcjax
from hcjax.app import pipeline, stages
from hcjax.config import configfile
from hcjax.config.reader import flatten
from tests.app.test_pipeline import (
    kernel_of,
    kernels,
    networks,
)
from tests.tiny import ROOT, flags, launch, npz, trained

pytestmark = pytest.mark.slow


def test_a_student_is_taught_by_a_workdir(tmp_path):
    arguments = [
        *flags(npz(tmp_path / "data.npz")), f"--workdir={tmp_path / 'run'}",
        f"--config.teacher={trained()}", "--config.stages=('distill',)",
        "--config.student.name=seed_cnn_tiny", "--config.distill.epochs=1",
    ]  # fmt: skip
    assert launch(*arguments) == 0
    teacher, student = map(kernels, networks(tmp_path / "run").values())
    assert not (tmp_path / "run" / "train").exists()  # nothing was trained again
    assert all((teacher[path] != student[path]).any() for path in teacher)


def test_the_teacher_counts_in_the_loss(tmp_path):
    files = []
    for setting in ("weight=0.0", "weight=1.0", "loss=decoupled"):
        config = configfile.load(str(ROOT / "configs/default.py"))
        for change in [
            *flags(npz(tmp_path / "data.npz"))[1:],
            f"--config.teacher={trained()}",
            "--config.stages=('distill',)",
            "--config.student.name=seed_cnn_tiny",
            f"--config.distill.{setting}",
        ]:
            key, value = change.removeprefix("--config.").split("=", 1)
            configfile.override(config, key, value)
        recipe, folder = stages.parse(config), tmp_path / setting
        found = pipeline.compress(recipe, folder, say=lambda *_: None, quiet=True)
        files.append(kernels(found.files["student"].read_bytes()))
    for a, b in itertools.combinations(files, 2):
        assert any((a[path] != b[path]).any() for path in a)


def test_students_teach_and_several_teachers_teach_together(tmp_path):
    base = [
        *flags(npz(tmp_path / "data.npz")), f"--config.teacher={trained()}",
        "--config.stages=('distill',)", "--config.student.name=seed_cnn_tiny",
        "--config.distill.epochs=1", "--config.distill.weight=1.0",
    ]  # fmt: skip
    alone, beside = tmp_path / "alone", tmp_path / "beside"
    assert launch(*base, "--config.distill.generations=2", f"--workdir={alone}") == 0
    first = networks(alone)
    assert list(first) == ["0-float.hcz", "1-student.hcz", "2-student-2.hcz"]
    student = alone / "1-student.hcz"
    other = f"--config.distill.beside=('{student}',)"
    assert launch(*base, other, f"--workdir={beside}") == 0
    # one seed, so what differs is who taught
    assert (kernel_of(first["1-student.hcz"]) != kernel_of(networks(beside)["1-student.hcz"])).any()


def test_a_teacher_that_saw_other_images_is_refused(tmp_path, capsys):
    base = [
        *flags(npz(tmp_path / "data.npz")), f"--config.teacher={trained()}",
        "--config.stages=('trim',)", f"--workdir={tmp_path / 'run'}",
    ]  # fmt: skip
    model, about = hcjax.load_any(trained())
    other = tmp_path / "other.hcz"
    other.write_bytes(hcjax.pack(model, about=about | {"mean": [0.125]}))
    assert launch(*base, f"--config.distill.beside=('{other}',)") == 2
    message = capsys.readouterr().err
    assert "config.distill.beside" in message and "mean [0.125]" in message


def test_a_teacher_that_is_a_config_follows_the_machine_and_the_data(tmp_path):
    """All but its recipe, and what it keeps to choose by; its own data is not even there."""
    (tmp_path / "own.py").write_text(
        "from configs import default\n\ndef get_config():\n    config = default.get_config()\n"
        "    config.data.source, config.data.path = 'idx', '/no/such'\n"
        "    config.data.validation, config.train.batch_size = 3, 24\n"
        "    config.model.name, config.train.epochs = 'seed_cnn_tiny', 1.0\n    return config\n"
    )
    given = {
        "teacher": tmp_path / "own.py", "stages": "('trim',)", "seed": 5, "platform": "cpu",
        "deterministic": True, "accelerate": False, "data.limit": 40,
    }  # fmt: skip
    base = [*flags(npz(tmp_path / "data.npz")), f"--workdir={tmp_path / 'run'}"]
    assert launch(*base, *(f"--config.{key}={value}" for key, value in given.items())) == 0
    ours, theirs = (
        flatten(json.loads((tmp_path / "run" / folder / "config.json").read_text()))
        for folder in ("", "train")
    )
    differ = {key for key in ours if ours[key] != theirs[key]}
    assert (theirs["data.validation"], theirs["train.batch_size"]) == (3, 24)
    assert differ == {
        "teacher", "stages", "data.validation", "train.batch_size", "train.epochs",
        "optim.learning_rate", "distill.weight", "distill.temperature", "distill.beside",
        "distill.logits",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "found"), [("lenet_prune", "stages of its own, ['prune']"), ("own", "teacher of its")]
)
def test_a_teacher_that_is_a_pipeline_is_to_be_run_first(tmp_path, capsys, name, found):
    """Trained without its stages it would be another network, in silence."""
    own = tmp_path / "own.py"
    own.write_text(
        "from configs import default\n\ndef get_config():\n    config = default.get_config()\n"
        "    config.teacher = 'configs/lenet.py'\n    return config\n"
    )
    teacher = own if name == "own" else ROOT / "configs" / f"{name}.py"
    base = [*flags(npz(tmp_path / "data.npz")), f"--workdir={tmp_path / 'run'}"]
    assert launch(*base, f"--config.teacher={teacher}", "--config.stages=('trim',)") == 2
    message = capsys.readouterr().err
    assert f"config.teacher: {teacher} has {found}" in message and ".hcz file" in message
    assert not (tmp_path / "run" / "train").exists()


@pytest.mark.parametrize("key", ["teacher", "distill.beside"])
@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"classes": ("bee", "ant", "cat")}, "classes ['ant', 'bee', 'cat'], the data has ['bee'"),
        ({"side": 9}, "takes images [8, 8, 1], the data has [9, 9, 1]"),
    ],
)
def test_a_teacher_of_other_classes_or_images_is_refused(tmp_path, capsys, key, data, expected):
    workdir = tmp_path / "run"
    value = trained() if key == "teacher" else f"('{trained()}',)"
    base = [*flags(npz(tmp_path / "data.npz", **data)), f"--config.{key}={value}"]
    assert launch(*base, "--config.stages=('trim',)", f"--workdir={workdir}") == 2
    message = capsys.readouterr().err
    assert f"config.{key}: {trained()} " in message and expected in message
    assert not (workdir / "train").exists() and not networks(workdir)  # nothing was trained for it


def test_logits_are_kept_for_the_next_student(tmp_path):
    base = [
        *flags(npz(tmp_path / "data.npz")), f"--config.teacher={trained()}",
        "--config.stages=('distill',)", "--config.student.name=seed_cnn_tiny",
        "--config.distill.epochs=1", f"--config.distill.logits={tmp_path / 'kept'}",
    ]  # fmt: skip
    found = []
    for temperature in (1.0, 2.0):
        workdir = tmp_path / str(temperature)
        given = f"--config.distill.temperature={temperature}"
        assert launch(*base, given, f"--workdir={workdir}") == 0
        (file,) = (tmp_path / "kept").iterdir()
        found.append((file.name, file.read_bytes(), networks(workdir)["1-student.hcz"]))
    (name, kept, first), (other, again, second) = found
    assert (name, kept) == (other, again) and first != second
