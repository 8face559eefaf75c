"""A config parsed, and made into what fit takes: fine-tuning, freezing, class weights."""

import json
import re
from functools import partial

import jax
import numpy as np
import pytest

import hcjax
from hcjax import trees
from hcjax.app import stages
from hcjax.app.setup import set_up
from hcjax.config import recipe
from hcjax.errors import ConfigError
from hcjax.runs import warm_start
from hcjax.runs.workdir import network_of
from hcjax.train.step import make_loss_fn
from tests.tiny import flags, images, launch, npz, trained


def built(**changes):
    """Returns the setup of the tiny run's config with keys 'section.key' changed."""
    values = json.loads((trained() / "config.json").read_text())
    for key, value in changes.items():
        *parents, last = key.split("__")
        section = values
        for parent in parents:
            section = section[parent]
        section[last] = value
    return set_up(stages.parse(values))


def leaves(tree):
    return dict(trees.paths(tree))


def same(a, b):
    return np.array_equal(np.asarray(a), np.asarray(b))


def test_every_key_of_a_config_is_read():
    made = built()
    assert made.steps == 4 and made.notes == []
    assert len(made.dataset.train.labels) == 32


def test_init_from_takes_every_array_where_the_classes_are_the_same():
    ours, theirs = leaves(built(init_from=str(trained())).params), hcjax.load(trained()).params
    fresh = leaves(built().params)
    for path, leaf in trees.paths(theirs):
        assert same(ours[path], leaf), path
    assert not same(fresh["conv1/kernel"], ours["conv1/kernel"])


@pytest.mark.parametrize("classes", [("dog", "emu", "fox"), ("bee", "ant", "cat")])
def test_init_from_starts_a_new_head_where_the_classes_differ(tmp_path, classes):
    path = str(npz(tmp_path / "other.npz", classes=classes))
    made = built(init_from=str(trained()), data__path=path)
    ours, theirs = leaves(made.params), leaves(hcjax.load(trained()).params)
    fresh = leaves(built(data__path=path).params)
    assert same(ours["conv1/kernel"], theirs["conv1/kernel"])
    assert same(ours["dense1/kernel"], fresh["dense1/kernel"])
    assert any("dense1/kernel" in note and "anew" in note for note in made.notes)


def test_init_from_starts_a_new_head_of_another_size(tmp_path):
    x, y = images(40)
    np.savez(tmp_path / "many.npz", x_train=x, y_train=np.arange(40) % 7)
    del y  # other labels
    made = built(init_from=str(trained()), data__path=str(tmp_path / "many.npz"))
    assert leaves(made.params)["dense1/kernel"].shape[-1] == 7
    theirs = hcjax.load(trained()).params
    assert same(made.params["conv1"]["kernel"], theirs["conv1"]["kernel"])


def test_init_from_another_network_is_refused():
    with pytest.raises(ConfigError, match="is another network: only 0 of 6"):
        built(init_from=str(trained()), model__name="mlp_tiny")


def test_frozen_layers_keep_the_bits_of_the_run_they_come_from(tmp_path, capsys):
    data = npz(tmp_path / "data.npz", classes=("dog", "emu", "fox"))
    changes = [f"--config.init_from={trained()}", "--config.optim.freeze=conv1/.*"]
    assert launch(*flags(data), *changes, f"--workdir={tmp_path / 'run'}") == 0
    said = capsys.readouterr().out
    assert "dense1/kernel [36, 3] starts anew" in said
    total = trees.num_parameters(hcjax.load(trained()).params)
    conv = trees.num_parameters(hcjax.load(trained()).params["conv1"])
    assert f"2 of 4 arrays, {conv} of {total} parameters are taken over" in said
    assert f"freeze conv1/.*: 2 of 4 arrays, {conv} of {total} parameters stay as they are" in said
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert (report["frozen_arrays"], report["frozen_parameters"]) == (2, conv)
    assert re.search(rf"frozen parameters +{conv}\n", said)
    ours, theirs = hcjax.load(tmp_path / "run").params, hcjax.load(trained()).params
    for path in ("kernel", "bias"):
        assert same(ours["conv1"][path], theirs["conv1"][path])
    assert not same(ours["dense1"]["kernel"], theirs["dense1"]["kernel"])


def test_class_weights_give_each_class_the_same_total(tmp_path):
    x, _ = images(46)
    y = np.repeat([0, 1, 2], [26, 10, 10])
    np.savez(tmp_path / "uneven.npz", x_train=x, y_train=y, x_test=x[:3], y_test=y[[0, 30, 40]])
    changes = {"data__path": str(tmp_path / "uneven.npz"), "data__validation": 0}
    made = built(loss__class_weights="balanced", **changes)
    np.testing.assert_allclose(made.objective.class_weights * [26, 10, 10], 46 / 3, rtol=1e-6)
    assert built(**changes).objective.class_weights is None


def test_a_run_with_class_weights_counts_each_example_by_its_class(tmp_path):
    x, _ = images(46)
    y = np.repeat([0, 1, 2], [26, 10, 10])
    np.savez(tmp_path / "uneven.npz", x_train=x, y_train=y, x_test=x[:3], y_test=y[[0, 30, 40]])
    made = built(
        loss__class_weights="balanced", data__path=str(tmp_path / "uneven.npz"), data__validation=0
    )
    weights = made.objective.class_weights
    loss_fn = make_loss_fn(made.network.apply, made.objective.loss, class_weights=weights)
    labels = np.array([0, 1, 1, 2], np.int32)
    batch = {"inputs": x[:4] / np.float32(255), "labels": labels}
    loss, (_, sums) = jax.jit(loss_fn)(made.params, made.state, batch, jax.random.key(0))
    logits, _ = made.network.apply(
        made.params, made.state, batch["inputs"], train=True, key=jax.random.key(0)
    )
    each = -np.asarray(jax.nn.log_softmax(logits))[np.arange(4), labels]
    assert float(sums["count"]) == pytest.approx(weights[labels].sum(), rel=1e-6)
    assert float(loss) == pytest.approx((weights[labels] * each).sum(), rel=1e-5)


def test_steps_are_epochs_times_examples_over_the_batch():
    assert built(train__epochs=2.5).steps == 5
    assert built(train__epochs=0.0).steps == 0
    with pytest.raises(ConfigError, match=r"train\.epochs must be enough for one step"):
        built(train__epochs=0.01)


def test_the_penalty_is_l1_and_half_l2_of_the_kernels():
    made = built(loss__l1=0.5, loss__l2=0.25)
    named = trees.paths(made.params)
    kernels = [np.asarray(leaf) for path, leaf in named if path.endswith("kernel")]
    expected = sum(0.5 * np.abs(k).sum() + 0.25 * (k**2).sum() / 2 for k in kernels)
    assert float(made.objective.penalty(made.params)) == pytest.approx(expected, rel=1e-5)
    assert built().objective.penalty is None


def test_a_home_folder_is_found(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    npz(tmp_path / "mine.npz")
    assert len(built(data__path="~/mine.npz").dataset.train.labels) == 32


def test_the_head_is_what_depends_on_the_number_of_classes():
    values = json.loads((trained() / "config.json").read_text())
    values["model"]["name"] = "resnet_tiny"
    dataset = built().dataset
    network_for = partial(network_of, values["model"], dataset.image_shape)
    head = warm_start.head_of(network_for, dataset.num_classes)
    assert head == {"params/dense1/kernel", "params/dense1/bias"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prune": {"sparsity": 0.9}}, "config.prune.sparsity is set, but `prune` is not in"),
        ({"quantize": {"epochs": 2}}, "config.quantize.epochs is set, but `quantize` is not in"),
        ({"student": {"name": "lenet5"}}, "config.student.name is set, but `distill` is not in"),
        ({"stages": ["trim"], "share": {"clusters": 4}}, r"not in config.stages, \('trim',\)"),
    ],
)
def test_options_of_a_stage_that_is_not_asked_for_are_named(changes, message):
    config = {"stages": [], "distill": {"weight": 0.5, "generations": None}, "trim": {}}
    with pytest.raises(ConfigError, match=message):
        recipe.check_sections(config | changes, stages.sections())
    legal = config | {"stages": ["prune"], "prune": {"sparsity": 0.9}}
    recipe.check_sections(legal, stages.sections())


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["quantize", "prune"], r"'prune' takes a network in float, and that of stage 'quantize'"),
        (["prune", "factorize"], "'factorize' makes new kernels, without the zeros: .*'prune'"),
        (["share", "shrink"], "'shrink' reads kernels, not codebooks: put it before 'share'"),
    ],
)
def test_a_stage_that_cannot_take_what_an_earlier_one_gives_is_named(names, message):
    with pytest.raises(ConfigError, match=message):
        stages.check_order(names)
    stages.check_order([names[0], "distill", names[1]])  # a student begins anew
    stages.check_order(names[::-1])


def test_integers_to_begin_with_need_a_student_first():
    with pytest.raises(ConfigError, match=r"that of config\.teacher is in integers"):
        stages.check_order(["prune"], integers="config.teacher")
    stages.check_order(["distill", "prune"], integers="config.teacher")
