"""Plans of configs up to the compiler: what it would be given, without data and without libtpu."""

import json
import sys
from pathlib import Path

import jax
import pytest

from hcjax.app import planning
from hcjax.config import configfile
from hcjax.data import OTHERS
from hcjax.errors import ConfigError, DataError
from hcjax.train import parallel
from hcjax.train.plan import planner
from tests import sources
from tests.tiny import ROOT, flags, launch, npz

QUICK = ("lenet", "lenet_distill", "nin", "resnet20", "resnet50_imagenet", "glosses")
CONFIGS = [
    pytest.param(path.stem, marks=() if path.stem in QUICK else pytest.mark.slow)
    for path in sorted((ROOT / "configs").glob("*.py"))
]


# source -> the shape of an input and the outputs of what `sources.make` makes
SHAPES = {"csv": ((24,), 2), "masks": ((40, 40, 3), 2), "wav": ((8000,), 10)}


@pytest.fixture
def given(monkeypatch):
    """What the planner was given last, in place of compiling it."""
    found = {}

    def stand_in(train_step, eval_step, state, train_batch, eval_batch, **options):
        found.update(
            steps=(train_step, eval_step), state=state, train=train_batch, eval=eval_batch,
            options=options,
        )  # fmt: skip
        return {"chips": 8}

    monkeypatch.setattr(planner, "plan", stand_in)
    monkeypatch.setattr(planner, "text", lambda found: f"{found['chips']} chips")
    return found


def traced(given):
    """Traces the steps as the compiler would get them."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    rows = jax.tree.map(  # [devices, examples per device, ...]
        lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype), (given["train"], given["eval"])
    )
    train_step, eval_step = given["steps"]
    jax.eval_shape(parallel.train(train_step), given["state"], rows[0], key)
    jax.eval_shape(parallel.evaluate(eval_step), *given["state"].averaged, rows[1])


def test_plan_hands_over_the_configs_own_steps_and_shapes(tmp_path, given, capsys):
    changes = ["--config.augment.use=mixup", "--config.train.ema_decay=0.9"]
    changes += ["--config.loss.class_weights=balanced"]
    arguments = [*flags(npz(tmp_path / "data.npz")), *changes, "--plan=v5e:2x4"]
    assert launch(*arguments, f"--workdir={tmp_path / 'run'}") == 0
    traced(given)
    options = given["options"]
    assert options["topology"] == "v5e:2x4" and options["largest"] and options["scaling"]
    assert not options["quick"]
    assert given["train"]["inputs"].shape == given["train"]["partner_inputs"].shape == (16, 8, 8, 1)
    assert given["eval"]["inputs"].shape == (1000, 8, 8, 1)
    document = json.loads((tmp_path / "run" / "plan.json").read_text())
    assert document["chips"] == 8 and document["model"] == "seed_cnn_tiny"
    assert document["data"]["image_shape"] == [8, 8, 1] and document["data"]["num_classes"] == 3
    text = capsys.readouterr().out
    assert "8 chips" in text and "8 x 8 x 1 of 3 classes (the npz data at hand)" in text


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_is_planned_without_its_data(tmp_path, monkeypatch, given, name):
    """The packed MNIST aside, which is always there; of other data than images a few examples."""
    monkeypatch.setenv("HOME", str(tmp_path))  # of TFDS's own folder
    monkeypatch.chdir(ROOT)
    config = configfile.load(f"configs/{name}.py")
    config.cache_dir = "off"
    if config.data.path:
        config.data.path = str(tmp_path / Path(config.data.path).name)
    if config.data.source in OTHERS:
        with pytest.raises(DataError, match=f"A plan of source {config.data.source} reads"):
            planning.plan(config, tmp_path, "v5e:2x4", quick=True)
        sources.make(config.data.source, config.data.path, config.data)
        planning.plan(config, tmp_path, "v5e:2x4", quick=True)
        traced(given)
        shape, outputs = SHAPES[config.data.source]
        assert given["train"]["inputs"].shape == (config.train.batch_size, *shape)
        document = json.loads((tmp_path / "plan.json").read_text())["data"]
        assert document["num_outputs"] == outputs and document["input_shape"] == list(shape)
        return
    planning.plan(config, tmp_path, "v5e:2x4", quick=True)
    shape, classes = {
        "mnist": ((28, 28, 1), 10), "idx": ((28, 28, 1), 10), "tfds": ((32, 32, 3), 10),
    }[config.data.source]  # fmt: skip
    if config.data.name == "imagenet2012":
        shape, classes = (224, 224, 3), 1000
    assert given["train"]["inputs"].shape == (config.train.batch_size, *shape)
    assert json.loads((tmp_path / "plan.json").read_text())["data"]["num_classes"] == classes
    assert given["options"]["quick"] and not given["options"]["largest"]


def test_the_imagenet_steps_trace_by_shapes_alone(tmp_path, monkeypatch, given):
    config = configfile.load(str(ROOT / "configs" / "resnet50_imagenet.py"))
    config.cache_dir, config.model.name, config.model.zero_init = "off", "resnet_tiny", None
    planning.plan(config, tmp_path, "v5e:2x4")
    leaves = jax.tree.leaves(given["state"])
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves)
    traced(given)


def test_data_that_nothing_is_known_of_is_given_by_a_flag(tmp_path, given, capsys):
    missing = tmp_path / "pets.npz"
    arguments = [*flags(missing), "--plan=v5e:2x4", f"--workdir={tmp_path / 'run'}"]
    assert launch(*arguments) == 2
    text = capsys.readouterr().err
    assert str(missing) in text and "--plan_data=224x224x3:1000" in text
    assert launch(*arguments, "--plan_data=12x10x3:7", "--plan_quick") == 0
    traced(given)
    assert given["train"]["inputs"].shape == (16, 12, 10, 3)
    assert given["options"]["quick"] and not given["options"]["scaling"]
    assert "12 x 10 x 3 of 7 classes (as --plan_data says)" in capsys.readouterr().out


def test_without_tfds_the_error_names_the_package_and_the_flag(
    tmp_path, monkeypatch, given, capsys
):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    arguments = [*flags(tmp_path / "fashion-mnist"), "--plan=v5e:2x4"]
    assert launch(*arguments, f"--workdir={tmp_path / 'run'}") == 2
    text = capsys.readouterr().err
    assert "hcjax[tfds]" in text and "--plan_data=224x224x3:1000" in text


@pytest.mark.parametrize("text", ["28x28:10", "28x28x1", "28x28x2:10", "0x28x1:10", "28x28x1:0"])
def test_a_shape_that_is_none_is_refused(text):
    with pytest.raises(ConfigError, match="must be HxWxC:K"):
        planning.parse_shape(text)


@pytest.mark.parametrize("flag", ["--plan_quick", "--plan_data=28x28x1:10"])
def test_flags_of_a_plan_need_one(tmp_path, capsys, flag):
    assert launch(*flags(npz(tmp_path / "data.npz")), flag) == 2
    assert "needs --plan=TOPOLOGY" in capsys.readouterr().err


def test_of_stages_the_training_before_them_is_planned(tmp_path, monkeypatch, given, capsys):
    monkeypatch.chdir(ROOT)
    config = configfile.load("configs/lenet_prune.py")  # whose own `model` is trained by nothing
    config.cache_dir = "off"
    planning.plan(config, tmp_path, "v5e:2x4")
    assert json.loads((tmp_path / "plan.json").read_text())["model"] == "lenet5"
    assert "what prune trains is not planned" in capsys.readouterr().out
    config.teacher = "runs/lenet-1a2b3c4d"
    with pytest.raises(ConfigError, match="is trained already"):
        planning.plan(config, tmp_path, "v5e:2x4")


def test_damaged_data_is_no_missing_data(tmp_path, given):
    path = tmp_path / "mnist.npz"
    path.write_bytes(b"none")
    config = configfile.load(str(ROOT / "configs" / "default.py"))
    config.data.source, config.data.path, config.cache_dir = "npz", str(path), "off"
    with pytest.raises(DataError, match=r"expected an \.npz archive"):
        planning.plan(config, tmp_path, "v5e:2x4")
