"""What a workdir gives back, whose it is, and what it says when it is damaged."""

import json
import shutil

import jax
import numpy as np
import pytest

import hcjax
from hcjax import trees
from hcjax.app import claims
from hcjax.devices import hosts
from hcjax.errors import CheckpointError, ConfigError, DataError
from hcjax.runs import workdir
from tests.tiny import CLASSES, images, trained


@pytest.fixture
def copy(tmp_path):
    return shutil.copytree(trained(), tmp_path / "run")


def test_load_gives_the_trained_network_ready_to_call():
    found = hcjax.load(trained())
    report = json.loads((trained() / "report.json").read_text())
    assert found.class_names == CLASSES and found.image_shape == (8, 8, 1) and found.step == 4
    assert trees.sha256(found.params) == report["params_sha256"]
    assert found.config == report["config"]


def test_the_loaded_network_scores_what_the_report_says():
    x, y = images(21, seed=1)
    logits = np.asarray(hcjax.load(trained())(x))
    assert logits.shape == (21, 3) and logits.dtype == np.float32
    report = json.loads((trained() / "report.json").read_text())
    assert np.mean(logits.argmax(1) == y) == pytest.approx(report["test_accuracy"])
    p = np.exp(logits - np.logaddexp.reduce(logits, 1)[:, None])
    # float32 sums in another order
    assert -np.log(p[np.arange(21), y]).mean() == pytest.approx(report["nll"], rel=1e-5)


@pytest.mark.parametrize("shape", [(2, 8, 8), (2, 9, 8, 1), (2, 8, 8, 3)])
def test_images_of_another_shape_are_refused(shape):
    with pytest.raises(DataError, match=r"expected images uint8\[N, 8, 8, 1\], got"):
        hcjax.load(trained())(np.zeros(shape, np.uint8))


def test_floats_in_0_to_1_give_what_bytes_give_and_others_are_refused():
    network, (x, _) = hcjax.load(trained()), images(2)
    np.testing.assert_allclose(network(x / 255), network(x), rtol=1e-5)
    with pytest.raises(DataError, match=r"float32 pixels in 0\.\.1"):
        network(x.astype(np.float32))


def test_load_takes_the_network_and_the_structure_from_the_caller(copy):
    (copy / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"give load\(\.\.\., apply=\)"):
        hcjax.load(copy)
    network = hcjax.models.create("seed_cnn_tiny", num_classes=3, input_shape=(8, 8, 1))
    like = jax.eval_shape(network.init, jax.random.key(0))
    x, _ = images(3)
    found = hcjax.load(copy, apply=network.apply, like=like)
    np.testing.assert_array_equal(found(x), hcjax.load(trained())(x))
    assert found.config == {}


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="holds no run"):
        hcjax.load(tmp_path / "nowhere")
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(CheckpointError, match="no finished checkpoint"):
        hcjax.load(tmp_path)


def test_a_finished_run_gives_its_report_to_the_same_config_only(copy):
    config = json.loads((copy / "config.json").read_text())
    assert claims.finished(copy, config) == json.loads((copy / "report.json").read_text())
    config["platform"] = "cpu"  # practical: not part of what a run is
    assert claims.finished(copy, config) is not None
    config["train"]["epochs"], config["seed"] = 9.0, 4
    with pytest.raises(CheckpointError) as raised:
        claims.finished(copy, config)
    assert "config.seed is 0 there, 4 here; config.train.epochs is 2.0 there, 9.0 here" in str(
        raised.value
    )


def test_an_unfinished_run_is_refused_to_another_config_too(copy):
    (copy / "report.json").unlink()
    config = json.loads((copy / "config.json").read_text())
    assert claims.finished(copy, config) is None
    with pytest.raises(CheckpointError, match=r"config\.seed is 0 there, 1 here"):
        claims.finished(copy, {**config, "seed": 1})


def test_a_folder_without_a_checkpoint_is_anyones(tmp_path):
    claims.claim(tmp_path, {"seed": 0})
    assert claims.finished(tmp_path, {"seed": 1}) is None
    claims.claim(tmp_path, {"seed": 1})
    assert json.loads((tmp_path / "config.json").read_text()) == {"seed": 1}


def test_run_facts_are_rewritten_for_another_config_only(tmp_path, monkeypatch):
    """A run that is killed before its first checkpoint leaves its folder to any other."""

    def launched(command, config):
        claims.claim(tmp_path, config, command=[command])
        assert json.loads((tmp_path / "config.json").read_text()) == config
        return json.loads((tmp_path / "run.json").read_text())

    assert launched("first", {"seed": 0})["command"] == ["first"]
    assert launched("again", {"seed": 0})["command"] == ["first"]
    monkeypatch.setattr(claims.environment, "versions", lambda: {"jax": "0.0"})
    with pytest.warns(UserWarning, match=r"begun with other versions: jax .* -> 0\.0"):
        launched("again", {"seed": 0, "platform": "cpu"})
    facts = launched("other", {"seed": 1})
    assert (facts["command"], facts["seed"], facts["versions"]) == (["other"], 1, {"jax": "0.0"})


def test_processes_that_see_different_folders_are_named(copy, monkeypatch):
    config = json.loads((copy / "config.json").read_text())
    monkeypatch.setattr(hosts, "gather", lambda found: [found, 0])
    with pytest.raises(CheckpointError, match=r"rank 0 sees a report, rank 1 sees no run"):
        claims.finished(copy, config)


def test_claim_writes_who_started_it(tmp_path):
    claims.claim(tmp_path, {"seed": 5}, command=["launch.py", "--x"])
    facts = json.loads((tmp_path / "run.json").read_text())
    assert facts["seed"] == 5 and facts["command"] == ["launch.py", "--x"]
    assert facts["versions"]["jax"] == jax.__version__
    assert facts["device"].endswith("(cpu)")


@pytest.mark.parametrize("options", [{"filters": (2, 2)}, {"filters": 0}])
def test_sizes_that_fit_no_network_are_named(options):
    config = {"model": {"name": "seed_cnn", "dtype": "float32", "sync_batchnorm": False, **options}}
    with pytest.raises(ConfigError, match=r"seed_cnn cannot be built .* as in {'filters': 32}"):
        workdir.network_of(config["model"], (8, 8, 1), 3)


def test_sync_batchnorm_is_refused_by_a_network_without_batchnorm():
    config = {"model": {"name": "seed_cnn", "dtype": "float32", "sync_batchnorm": True}}
    with pytest.raises(ConfigError, match=r"sync_batchnorm: model 'seed_cnn' has no BatchNorm"):
        workdir.network_of(config["model"], (8, 8, 1), 3)
