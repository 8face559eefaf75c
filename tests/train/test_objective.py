"""Arguments of `fit` in groups: the same training by an Objective, an Every, or their keywords."""

import jax
import numpy as np
import optax
import pytest

import hcjax
from hcjax import Every, Objective, distill, losses, trees
from hcjax.errors import ConfigError
from hcjax.report import writers
from hcjax.train import assembly
from tests.tiny import npz


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    """Returns (fit with a network and data, fields of an Objective, folder)."""
    folder = tmp_path_factory.mktemp("objective")
    data = hcjax.data.load("npz", path=str(npz(folder / "data.npz")), validation=16)
    network = hcjax.models.create("mlp_tiny", input_shape=(8, 8, 1), num_classes=3)
    params, state = network.init(jax.random.key(0))
    rng = np.random.default_rng(0)
    table = rng.normal(size=(64, 3)).astype(np.float32)
    fields = {
        "loss": distill.taught(losses.cross_entropy, weight=0.5),
        "penalty": losses.l2,
        "class_weights": np.float32([1, 2, 3]),
        "teacher": lambda images: images.reshape(len(images), -1) @ table,
    }

    def fit(*groups, **options):
        arguments = {"tx": optax.sgd(0.1), "steps": 6, "batch_size": 8, "key": jax.random.key(1)}
        arguments |= {"state": state, "quiet": True} | options
        return hcjax.fit(network.apply, params, data, *groups, **arguments)

    return fit, fields, folder


def sha(done):
    return trees.sha256(done.params)


def test_an_objective_and_keywords_train_the_same_bits(setting):
    fit, fields, folder = setting
    cached = fields | {"teacher_logits": folder / "cache.logits"}
    by_keywords = sha(fit(**cached))
    assert by_keywords == sha(fit(Objective(**cached))) == sha(fit(objective=Objective(**cached)))
    assert by_keywords == sha(fit(Objective(losses.focal), **fields))  # keywords come last
    assert (folder / "cache.logits").exists()


@pytest.mark.parametrize("missing", ["penalty", "class_weights"])
def test_every_field_of_an_objective_counts(setting, missing):
    fit, fields, _ = setting
    fewer = {k: v for k, v in fields.items() if k != missing}
    assert sha(fit(Objective(**fewer))) != sha(fit(Objective(**fields)))


def test_every_and_keywords_validate_save_and_log_at_the_same_steps(setting, tmp_path):
    fit, fields, _ = setting
    found = []
    for name, options in (
        ("group", {"every": Every(eval=2, checkpoint=3, log=1)}),
        ("keywords", {"eval_every": 2, "checkpoint_every": 3, "log_every": 1}),
        ("both", {"every": Every(eval=2, checkpoint=5), "checkpoint_every": 3, "log_every": 1}),
    ):
        done = fit(**fields, **options, workdir=tmp_path / name)
        saved = sorted(int(p.name) for p in (tmp_path / name / "checkpoints").glob("[0-9]*"))
        lines = [(x["split"], x["step"]) for x in writers.read_metrics(tmp_path / name)]
        found.append(([line["step"] for line in done.history], saved, sorted(lines)))
    assert found[0] == found[1] == found[2]
    assert found[0][:2] == ([2, 4, 6], [3, 6])
    assert [step for split, step in found[0][2] if split == "train"] == [1, 2, 3, 4, 5, 6]


def test_a_wrong_argument_is_named(setting):
    fit, fields, _ = setting
    with pytest.raises(TypeError, match="unknown argument 'eval_evry'; did you mean 'eval_every'"):
        fit(**fields, eval_evry=3)
    with pytest.raises(ConfigError, match="objective must be Objective, got function"):
        fit(lambda logits, labels: 0.0)
    with pytest.raises(ConfigError, match="every must be Every, got int"):
        fit(**fields, every=3)
    with pytest.raises(TypeError, match="unknown argument 'log_every'"):
        facts = {"mean": 0.0, "std": 1.0, "num_classes": 3}
        assembly.make_steps(len, loss=len, tx=optax.sgd(0.1), log_every=3, **facts)
