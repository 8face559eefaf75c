"""Pipelines: stages of a config, run on a tiny network, cut and gone on with."""

import json
import shutil

import jax
import numpy as np
import pytest

import hcjax
from hcjax.accelerate import compiler
from hcjax.app import pipeline, verify
from hcjax.graph.qtensor import QTensor
from tests.tiny import TEST_EXAMPLES, flags, folder, launch, npz, trained

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


def kernel_of(blob):
    return next(iter(kernels(blob).values()))


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


def test_files_are_verified_on_the_data_of_the_run_that_made_them(tmp_path):
    """Not on that of its teacher, which saw six images of each part, and its file says nothing."""
    few, silent, cache = tmp_path / "few", tmp_path / "silent.hcz", folder() / "cache"
    base = [*flags(npz(tmp_path / "data.npz")), "--quiet"]
    limited = ["--config.data.limit=6", "--config.train.batch_size=2", "--config.seed=3"]
    assert launch(*base, *limited, f"--workdir={few}") == 0
    model, about = hcjax.load_any(trained())
    silent.write_bytes(hcjax.pack(model, about={}))
    for teacher in (few, silent):
        run, found = tmp_path / f"of-{teacher.name}", tmp_path / "verified.json"
        given = [f"--config.teacher={teacher}", "--config.stages=('trim',)", f"--workdir={run}"]
        assert launch(*base, *given) == 0
        files = sorted(run.glob("*.hcz"))
        args = ["--notimed", f"--json={found}", f"--config.cache_dir={cache}"]
        assert verify.main(["verify", *map(str, files), *args]) == 0
        said = json.loads((run / "report.json").read_text())["stages"]
        for there, here in zip(json.loads(found.read_text()), said, strict=True):
            assert there["examples"] == here["examples"] == TEST_EXAMPLES
            assert there["accuracy"] == here["accuracy"]
        for file in files:
            of_it = hcjax.unpack(file.read_bytes()).about
            assert of_it.keys() == about.keys()
            assert of_it["seed"] == 0 and "limit" not in of_it["data"]
            if teacher == few:
                assert of_it["mean"] == hcjax.load_any(few)[1]["mean"]


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


def test_bits_are_picked_for_each_layer_under_a_budget(made, tmp_path, capsys):
    base = [
        *flags(npz(tmp_path / "data.npz")), "--config.stages=('quantize',)",
        f"--config.teacher={made[1] / '0-float.hcz'}", "--config.quantize.images=16",
    ]  # fmt: skip
    widths = {}
    for name, value in (("size", 4.5 / 32), ("drop", 0.5)):
        workdir = tmp_path / name
        assert launch(*base, f"--config.quantize.{name}={value}", f"--workdir={workdir}") == 0
        assert "bits: " in capsys.readouterr().out
        leaves = hcjax.unpack((workdir / "1-quantized.hcz").read_bytes()).params
        kernels = [v for k, v in leaves.items() if k.endswith("/kernel")]
        widths[name] = [(kernel.bits, kernel.values.size) for kernel in kernels]
    total = sum(size for _, size in widths["size"])
    assert sum(bits * size for bits, size in widths["size"]) <= 4.5 * total
    assert max(bits for bits, _ in widths["drop"]) < 8


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
        ({"quantize.size": 0.2}, "give one of bits, size and drop, got {'bits': 5, 'size': 0.2}"),
        ({"prune.method": "magic"}, "unknown method 'magic'"),
        ({"prune.sparsity": 1.5}, "sparsity must be in [0, 1)"),
        ({"distill.weight": 2.0}, "config.distill.weight must be in [0, 1]"),
        ({"prune.epochs": -1.0}, "config.prune.epochs must be >= 0"),
        ({"stages": "('prune','quantize','trim')"}, "'trim' takes a network in float"),
        ({"stages": "('quantize','prune')"}, "put 'prune' before it"),
        (
            {"stages": "('quantize','shrink','prune')", "shrink.keep": 0.5},
            "that of stage 'quantize' is in integers: put 'shrink' before it",
        ),
        ({"quantize.images": 0}, "config.quantize.images must be >= 1"),
        ({"prune.epochs": None, "prune.method": "fisher"}, "config.prune.method is of a training"),
        ({"prune.epochs": 0, "prune.ramp": 0.5}, "config.prune.ramp is of a training"),
        ({"prune.epochs": 0, "prune.learning_rate": 0.1}, "or learning_rate to None"),
        (
            {"prune.epochs": 0.01},
            "config.prune.epochs must be enough for one step of 16 of 32 images",
        ),
        ({"quantize.entropy": -5.0}, "config.quantize.entropy must be >= 0, got -5.0"),
        ({"quantize.epochs": 0, "quantize.entropy": 0.1}, "config.quantize.entropy is of a train"),
        (
            {"quantize.epochs": 0, "quantize.learning_rate": 0.1},
            "config.quantize.learning_rate is of a training, and config.quantize.epochs is 0",
        ),
        *(
            (
                {"stages": stages, f"{stage}.{key}": value, f"{stage}.learning_rate": 0.1},
                f"config.{stage}.learning_rate is of a training",
            )
            for stage, stages, key, value in (
                ("shrink", "('shrink','prune','quantize')", "keep", 0.5),
                ("factorize", "('factorize','prune','quantize')", "rank", 2),
                ("share", "('prune','share','quantize')", "clusters", 4),
            )
        ),
        ({"distill.beside": 5}, "config.distill.beside must be a tuple of workdirs"),
        ({"distill.beside": "a.hcz,"}, "config.distill.beside must be a tuple of workdirs"),
        ({"teacher": "nowhere.hcz"}, "nowhere.hcz"),
    ],
)
def test_bad_configs_are_named(changes, message, tmp_path, capsys):
    teacher = {"teacher": trained()}  # nothing to train before
    arguments = [*flags(npz(tmp_path / "data.npz")), *options(**teacher | changes)]
    assert launch(*arguments, f"--workdir={tmp_path / 'run'}") == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("stage", ["trim", "quantize"])
def test_a_teacher_in_integers_is_only_taught_from(made, tmp_path, capsys, stage):
    base = [*flags(npz(tmp_path / "data.npz")), f"--workdir={tmp_path / 'run'}"]
    base += [f"--config.teacher={made[1] / '3-quantized.hcz'}", f"--config.stages=('{stage}',)"]
    assert launch(*base) == 2
    message = capsys.readouterr().err
    assert f"'{stage}' takes a network in float, and that of config.teacher is in i" in message


def test_several_seeds_are_summed_up_stage_by_stage(tmp_path, capsys):
    arguments = [
        *flags(npz(tmp_path / "data.npz")), f"--workdir={tmp_path / 'run'}", "--seeds=2", "--quiet",
        f"--config.teacher={trained()}", "--config.stages=('prune',)",
        "--config.prune.sparsity=0.75", "--config.prune.epochs=1", "--config.prune.method=fisher",
    ]  # fmt: skip
    assert launch(*arguments) == 0
    table = capsys.readouterr().out.split("mean (n=2)")[-1].splitlines()
    runs = json.loads((tmp_path / "run" / "seeds.json").read_text())["stages"]
    assert [[stage["name"] for stage in run] for run in runs] == [["float", "pruned"]] * 2
    accuracies = [run[1]["accuracy"] for run in runs]
    heads = "accuracy validation accuracy difference nonzeros file bytes ratio macs"
    assert table[0].split() == heads.split()
    assert f"{100 * np.mean(accuracies):.2f}" in table[3] and table[3].startswith("pruned")
    results = json.loads((tmp_path / "run" / "seeds.json").read_text())["results"]
    for result, run in zip(results, runs, strict=True):
        assert result["test_accuracy"] == run[1]["accuracy"]
        assert result["validation_accuracy"] == run[1]["validation_accuracy"]
        assert result["file_bytes"] == run[1]["file_bytes"]
    left = {run[1]["nonzeros"] for run in runs}
    assert left == {run[0]["weights"] - int(0.75 * run[0]["weights"] + 0.5) for run in runs}


def test_the_report_lists_the_stages(made):
    report = json.loads((made[1] / "report.json").read_text())
    assert [stage["name"] for stage in report["stages"]] == [
        "float", "pruned", "trimmed", "quantized", "quantized-trained",
    ]  # fmt: skip
    sizes = [len(blob) for blob in networks(made[1]).values()]
    assert [stage["file_bytes"] for stage in report["stages"]] == sizes
    assert [stage["file"] for stage in report["stages"]] == list(networks(made[1]))
    assert report["test_accuracy"] == report["stages"][-1]["accuracy"]


def test_a_dead_stage_is_warned_of_marked_and_not_on_the_front(tmp_path, capsys, monkeypatch):
    drawn = []
    draw = pipeline.pareto.draw_pareto
    monkeypatch.setattr(
        pipeline.pareto,
        "draw_pareto",
        lambda points, **how: drawn.append((points, how["dead"])) or draw(points, **how),
    )
    changes = {"stages": "('prune','trim')", "prune.sparsity": 0.999, "prune.epochs": 0}
    keys = [f"--config.{k}={v}" for k, v in {**changes, "train.epochs": 20}.items()]
    data = npz(tmp_path / "data.npz", train=96)
    assert launch(*flags(data), *keys, "--config.data.validation=48", f"--workdir={tmp_path}") == 0
    text = capsys.readouterr().out
    assert "WARNING: pruned is dead: its accuracy" in text and "a lower prune.sparsity" in text
    report = json.loads((tmp_path / "report.json").read_text())
    assert [row.get("dead", False) for row in report["stages"]] == [False, True, True]
    assert list(report["dead"]) == ["pruned", "trimmed"]
    ((points, dead),) = drawn
    assert len(points) == 3 and dead == [1, 2]
    assert "pruned (dead)" in text
