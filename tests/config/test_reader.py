"""Configs: every option is a key, every key is read or refused, every file builds."""

import importlib
import json
import re

import jax
import pytest

from configs import default
from hcjax import data, losses, models, optim, trees
from hcjax.attack import training
from hcjax.config.reader import Reader, differences, fingerprint, flatten, to_dict
from hcjax.core import registry
from hcjax.errors import ConfigError
from hcjax.runs import workdir
from tests.tiny import ROOT

NAMES = sorted(path.stem for path in (ROOT / "configs").glob("*.py") if path.stem != "__init__")
# what is not a key: given by run, or a function
NOT_KEYS = {
    "model": {"num_classes", "input_shape", "axis_name", "tokens", "rate"},
    "optim": {"decay_select"},
    "schedule": {"steps", "learning_rate"},
    "data": {"source", "seed", "about"},
}


def keys(table, section):
    """Returns the (entry, option) pairs of a table that are to be keys of a section."""
    return [
        (name, option)
        for name, function in table.items()
        for option in registry.legal(function)
        if option not in NOT_KEYS.get(section, ())
    ]


@pytest.mark.parametrize(
    ("table", "section"),
    [(models.MODELS, "model"), (losses.LOSSES, "loss"), (optim.OPTIMIZERS, "optim"),
     (optim.SCHEDULES, "schedule")],
    ids=["models", "losses", "optimizers", "schedules"],
)  # fmt: skip
def test_every_option_of_a_table_is_a_key(table, section):
    found = keys(table, section)
    assert len(found) >= len(table)
    missing = [pair for pair in found if pair[1] not in default.get_config()[section]]
    assert missing == []


def test_every_key_of_a_section_is_an_option_of_something():
    for table, section, own in (
        (models.MODELS, "model", {"name", "sync_batchnorm"}),
        (losses.LOSSES, "loss", {"name", "l1", "l2", "class_weights", "beta", *training.ATTACK}),
        (optim.OPTIMIZERS, "optim", {"name", "clip_norm", "accumulate_steps", "freeze"}),
        (optim.SCHEDULES, "schedule", {"name"}),
    ):
        read = {option for _, option in keys(table, section)} | own
        assert set(default.get_config()[section]) <= read, section


def test_every_augmentation_is_a_section_with_its_options():
    sections = default.get_config().augment
    assert set(sections) - {"use"} == set(data.AUGMENTATIONS)
    for name, function in data.AUGMENTATIONS.items():
        assert set(sections[name]) == set(registry.legal(function)), name


def test_every_argument_of_load_is_a_key_of_data():
    expected = set(registry.legal(data.load)) - NOT_KEYS["data"]
    own = {name for source in data.OTHERS.values() for name in registry.legal(source)}
    assert set(default.get_config().data) - {"source", "threads"} == expected | own


def test_the_default_values_of_load_are_those_of_the_config():
    given, legal = default.get_config().data, registry.legal(data.load)
    for key in ("validation", "memory_limit_bytes"):
        assert given[key] == legal[key]


# configs that train another's network and go on with it
STAGED = ("lenet_int8", "resnet20_compress", "resnet20_int4", "resnet20_int8", "resnet20_shrink")
# configs that go on with the network that their teacher's config trains, and have none of their own
TAUGHT = ("lenet_compress", "lenet_distill", "lenet_prune")
# configs whose inputs are no images: shape, outputs, and what is known of the data
_TEXT = ((24,), 45, {"text": {"tokens": 12_002}})
_SOUND = ((8000,), 10, {"rate": 8000})
OTHERS = {
    "glosses": _TEXT, "glosses_compress": _TEXT, "digits": _SOUND, "digits_compress": _SOUND,
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_get_config_is_a_plain_function_and_its_network_builds(name):
    config = importlib.import_module(f"configs.{name}").get_config()
    assert config.is_locked
    plain = to_dict(config)
    assert json.loads(json.dumps(plain)) == plain
    shape, classes = {
        "alexnet": ((32, 32, 3), 10),
        "nin": ((32, 32, 3), 10),
        "resnet50_imagenet": ((224, 224, 3), 1000),
        "emoji_unet": ((40, 40, 3), 2),
        "emoji_unet_compress": ((40, 40, 3), 2),
    }.get(name, ((28, 28, 1), 10))
    if name in OTHERS:
        network = workdir.network_of(plain["model"], *OTHERS[name])
        assert trees.num_parameters(jax.eval_shape(network.init, jax.random.key(0))[0]) > 0
        return
    if name in TAUGHT:
        assert plain["teacher"] == "configs/lenet.py"
        assert plain["model"] == to_dict(default.get_config())["model"]
        return
    network = workdir.network_of(plain["model"], shape, classes)
    params, _ = jax.eval_shape(network.init, jax.random.key(0))
    assert trees.num_parameters(params) == {
        "default": 54_410, "mnist_cnn": 54_410, "lenet": 431_080, "lenet_300_100": 266_610,
        "mnist_speedrun": 57_018, "mnist_robust": 166_406, "resnet20": 269_434,
        "emoji_unet": 94_426, "emoji_unet_compress": 94_426,
        "nin": 966_986, "alexnet": 7_506_762, "resnet50_imagenet": 25_557_032,
    }[name.partition("_")[0] if name in STAGED else name]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_every_config_says_what_a_reader_wants_to_know(name):
    text = importlib.import_module(f"configs.{name}").__doc__
    assert f"--config=configs/{name}.py" in text or name == "default"
    if name != "default":
        for word in ("Paper", "Command", "Device", "xpected", "Time"):
            assert word in text, f"configs/{name}.py does not say: {word}"


def test_every_key_of_the_default_config_has_a_comment():
    lines = (ROOT / "configs" / "default.py").read_text().splitlines()
    sets = [i for i, line in enumerate(lines) if re.match(r"    \w+\.[\w.]+ = ", line)]
    leaves = [i for i in sets if "ConfigDict()" not in lines[i]]
    assert len(leaves) == len(flatten(to_dict(default.get_config())))
    assert [
        lines[i] for i in leaves if "  # " not in lines[i] and "    # " not in lines[i - 1]
    ] == []


def test_a_key_that_nobody_read_is_named_with_the_nearest_read_one():
    reader = Reader({"seed": 1, "sed": 2, "model": {"name": "nin", "nam": "x"}})
    reader.get("seed")
    reader.section("model").get("name")
    assert reader.unread() == ["sed", "model.nam"]
    with pytest.raises(ConfigError, match=r"config\.sed; did you mean config\.seed\?"):
        reader.check_unread()


def test_a_key_that_is_none_need_not_be_read():
    reader = Reader({"seed": 1, "extra": None})
    reader.get("seed")
    reader.check_unread()


def test_a_missing_key_section_or_value_is_an_error_that_names_it():
    reader = Reader({"optim": {"name": None}})
    with pytest.raises(ConfigError, match=r"no key config\.seed"):
        reader.get("seed")
    with pytest.raises(ConfigError, match=r"section config\.model"):
        reader.section("model")
    with pytest.raises(ConfigError, match=r"config\.optim\.name must have a value"):
        reader.section("optim").get("name")


def test_configs_that_differ_in_practical_keys_only_are_the_same_run():
    ours = default.get_config()
    theirs = default.get_config()
    theirs.platform, theirs.data.threads, theirs.cache_dir = "cpu", 3, "off"
    assert differences(ours, theirs) == {}
    assert fingerprint(ours) == fingerprint(theirs)


def test_differences_name_both_values_and_change_the_fingerprint():
    ours, theirs = default.get_config(), default.get_config()
    theirs.optim.learning_rate = 0.5
    assert differences(ours, theirs) == {"optim.learning_rate": (1e-3, 0.5)}
    assert fingerprint(ours) != fingerprint(theirs)


def test_a_config_equals_its_own_json():
    config = default.get_config()
    config.augment.use = ("flip",)
    config.data.image_size = (32, 32)
    read_back = json.loads(json.dumps(to_dict(config)))
    assert differences(config, read_back) == {}


def test_keys_that_change_the_numbers_are_not_practical():
    """The memory limit decides whether mean and std come from all images or from a sample."""
    ours, theirs = {"data": {"memory_limit_bytes": 1}}, {"data": {"memory_limit_bytes": 2}}
    assert differences(ours, theirs) == {"data.memory_limit_bytes": (1, 2)}
    ours, theirs = {"platform": "cpu"}, {"platform": "gpu"}
    assert differences(ours, theirs) == {}
