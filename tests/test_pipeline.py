"""Pipelines: stages of a config, run on a tiny network, cut and gone on with."""

import json
import shutil

import jax
import numpy as np
import pytest

import hcjax
from hcjax import config as configs
from hcjax import configfile, pipeline, run
from hcjax.graph.qtensor import QTensor
from hcjax.training import compiler
from tests.tiny import ROOT, flags, launch, npz, trained

# trainings and twenty compilations; the quick part of the suite has test_cards and test_run
pytestmark = pytest.mark.slow

STAGES = {
    "stages": "('prune','trim','quantize')",
    "prune.sparsity": 0.75,
    "prune.epochs": 1,
    "quantize.epochs": 1,
    "quantize.bits": 5,
    "quantize.images": 16,
}


def options(**changes):
    return [f"--config.{key}={value}" for key, value in {**STAGES, **changes}.items()]


@pytest.fixture(scope="module", autouse=True)
def one_way():
    """Compiles a network that is timed in one way, not in all that `tune` tries."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiler, "tune", lambda fn, *args: jax.jit(fn))
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Returns (flags, workdir) of a pipeline that was run."""
    folder = tmp_path_factory.mktemp("pipeline")
    arguments = [*flags(npz(folder / "data.npz")), *options(), f"--workdir={folder / 'run'}"]
    assert launch(*arguments) == 0
    return arguments, folder / "run"


def networks(workdir):
    """Returns the content of every .hcz file of a workdir, by name."""
    return {path.name: path.read_bytes() for path in sorted(workdir.glob("*.hcz"))}


def kernels(blob):
    """Returns the kernels of a packed network by path."""
    leaves = hcjax.unpack(blob).params.items()
    plain = {k: v.values if isinstance(v, QTensor) else v for k, v in leaves}
    return {k: np.asarray(v) for k, v in plain.items() if k.endswith("/kernel")}


def test_every_stage_is_a_file_that_says_what_belongs_to_it(made):
    files = networks(made[1])
    assert list(files) == [
        "0-float.hcz",
        "1-pruned.hcz",
        "2-trimmed.hcz",
        "3-quantized.hcz",
        "4-quantized-trained.hcz",
    ]
    about = hcjax.unpack(files["4-quantized-trained.hcz"]).about
    assert about["class_names"] == ["ant", "bee", "cat"]
    assert about["data"]["source"] == "npz"
    assert len(about["mean"]) == len(about["std"]) == 1


def test_zeros_stay_zero_through_all_stages(made):
    files = list(networks(made[1]).values())
    whole, pruned, *_ = [sum((k != 0).sum() for k in kernels(blob).values()) for blob in files]
    size = sum(k.size for k in kernels(files[0]).values())
    assert whole == size
    assert pruned == size - int(0.75 * size + 0.5)
    before, after = kernels(files[2]), kernels(files[4])
    assert before.keys() == after.keys()
    assert not any(after[path][kernel == 0].any() for path, kernel in before.items())


def test_the_last_stage_is_of_integers_and_was_trained(made):
    files = networks(made[1])
    before, after = (
        kernels(files[f"{name}.hcz"]) for name in ("3-quantized", "4-quantized-trained")
    )
    assert all(k.dtype == np.int8 and np.abs(k).max() <= 15 for k in after.values())
    assert any((after[path] != k).any() for path, k in before.items())


def test_a_pipeline_that_was_cut_goes_on_to_the_same_bits(made, tmp_path):
    arguments, workdir = made
    files = networks(workdir)
    for name in ("3-quantized.hcz", "4-quantized-trained.hcz"):
        (workdir / name).unlink()
    (workdir / "report.json").unlink()
    assert launch(*arguments) == 0
    assert networks(workdir) == files


def test_another_config_in_the_same_workdir_is_refused(made, capsys):
    arguments, _ = made
    assert launch(*arguments, "--config.prune.sparsity=0.5") == 2
    assert "config.prune.sparsity is 0.75 there" in capsys.readouterr().err


def test_another_config_is_refused_where_only_stages_are(made, tmp_path, capsys):
    arguments, workdir = made
    unfinished = shutil.copytree(workdir, tmp_path / "run")
    (unfinished / "report.json").unlink()
    assert launch(*arguments, f"--workdir={unfinished}", "--config.prune.sparsity=0.5") == 2
    assert "config.prune.sparsity is 0.75 there" in capsys.readouterr().err
    assert networks(unfinished) == networks(workdir)


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
    for weight in (0.0, 1.0):
        config = configfile.load(str(ROOT / "configs/default.py"))
        for change in [
            *flags(npz(tmp_path / "data.npz"))[1:],
            f"--config.teacher={trained()}",
            "--config.stages=('distill',)",
            "--config.student.name=seed_cnn_tiny",
            f"--config.distill.weight={weight}",
        ]:
            key, value = change.removeprefix("--config.").split("=", 1)
            configfile.override(config, key, value)
        plain, folder = configs.to_dict(config), tmp_path / str(weight)
        found = pipeline.compress(plain, folder, train=run.run, say=lambda *_: None, quiet=True)
        files.append(kernels(found.files["student"].read_bytes()))
    assert any((files[0][path] != files[1][path]).any() for path in files[0])


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


def kernel_of(blob):
    return next(iter(kernels(blob).values()))


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


def test_a_penalty_on_bits_leaves_fewer(made, tmp_path):
    base = [
        *flags(npz(tmp_path / "data.npz")), f"--workdir={tmp_path / 'run'}",
        f"--config.teacher={made[1] / '2-trimmed.hcz'}", "--config.stages=('quantize',)",
        "--config.quantize.bits=5", "--config.quantize.images=16", "--config.quantize.epochs=1",
        "--config.quantize.learning_rate=0.01",
    ]  # fmt: skip
    assert launch(*base, "--config.quantize.entropy=0.01") == 0
    before, after = (
        len(set(kernel_of(networks(tmp_path / "run")[name]).ravel().tolist()))
        for name in ("1-quantized.hcz", "2-quantized-trained.hcz")
    )
    assert after < before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {
                "stages": "('distill','prune','trim','quantize')",
                "student.name": "seed_cnn_tiny",
                "distill.generations": 0,
            },
            "config.distill.generations must be >= 1",
        ),
        ({"stages": "('prun',)"}, "unknown stage 'prun'; did you mean 'prune'?"),
        ({"stages": "('quantize',)"}, "config.prune"),
        ({"stages": "('prune','prune')"}, "a list of different stages"),
        ({"stages": "('distill','prune','trim','quantize')"}, "config.student.name"),
        ({"quantize.bits": "('conv1:8',)"}, "PATTERN=NUMBER"),
        ({"prune.method": "magic"}, "unknown method 'magic'"),
        ({"prune.sparsity": 1.5}, "sparsity must be in [0, 1]"),
        ({"distill.weight": 2.0}, "config.distill.weight must be in [0, 1]"),
        ({"prune.epochs": -1.0}, "config.prune.epochs must be >= 0"),
        ({"teacher": "nowhere.hcz"}, "nowhere.hcz"),
    ],
)
def test_bad_configs_are_named(changes, message, tmp_path, capsys):
    teacher = {"teacher": trained()}  # nothing to train before
    arguments = [*flags(npz(tmp_path / "data.npz")), *options(**teacher | changes)]
    assert launch(*arguments, f"--workdir={tmp_path / 'run'}") == 2
    assert message in capsys.readouterr().err


def test_the_report_lists_the_stages(made):
    report = json.loads((made[1] / "report.json").read_text())
    assert [stage["name"] for stage in report["stages"]] == [
        "float", "pruned", "trimmed", "quantized", "quantized-trained",
    ]  # fmt: skip
    sizes = [len(blob) for blob in networks(made[1]).values()]
    assert [stage["file_bytes"] for stage in report["stages"]] == sizes
    assert report["test_accuracy"] == report["stages"][-1]["accuracy"]
