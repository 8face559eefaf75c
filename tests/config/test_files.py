"""`--config=FILE --config.KEY=VALUE`: what is set, and what each mistake says."""

import pytest

from configs import default
from hcjax.config import configfile
from hcjax.errors import ConfigError
from tests.tiny import ROOT


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("optim.learning_rate", "3e-4", 3e-4),
        ("optim.learning_rate", "1", 1.0),
        ("seed", "7", 7),
        ("deterministic", "true", True),
        ("deterministic", "False", False),
        ("model.name", "10", "10"),
        ("model.dropout", "0.5", 0.5),
        ("train.patience", "None", None),
        ("data.validation", "0.1", 0.1),
        ("data.validation", "100", 100),
        ("data.image_size", "32", 32),
        ("data.image_size", "32,48", (32, 48)),
        ("data.image_size", "(32, 48)", (32, 48)),
        ("model.filters", "((1,2),(3,4))", ((1, 2), (3, 4))),
        ("augment.use", "flip", ("flip",)),
        ("augment.use", "flip,shift", ("flip", "shift")),
        ("augment.use", "('flip', 'shift')", ("flip", "shift")),
        ("schedule.milestones", "[0.5, 0.75]", (0.5, 0.75)),
    ],
)
def test_a_value_is_read_as_the_type_of_its_key(key, text, value):
    config = default.get_config()
    configfile.override(config, key, text)
    section, _, last = key.rpartition(".")
    found = (config[section] if section else config)[last]
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("key", "text", "expected"),
    [
        ("optim.learning_rate", "fast", "must be a number, got 'fast'"),
        ("optim.learning_rate", "nan", "must be a number"),
        ("optim.learning_rate", "1e999", "must be a number"),
        ("optim.learning_rate", "true", "must be a number"),
        ("seed", "1.5", "must be a whole number"),
        ("deterministic", "1", "must be true or false"),
        ("data.validation", "most", "a number or a tuple"),
        ("data.validation", "true", "a number or a tuple"),
        ("optim", "adam", r"config\.optim is a section"),
        ("optim.learning_rat", "1", r"did you mean config\.optim\.learning_rate\?"),
        ("clip_norm", "1", r"did you mean config\.optim\.clip_norm\?"),
        ("optim.name.x", "1", "unknown config key"),
        ("", "1", "unknown config key"),
        ("qqq", "1", r"unknown config key config\.qqq\. All keys are in configs/default\.py"),
    ],
)
def test_a_wrong_key_or_value_is_named(key, text, expected):
    with pytest.raises(ConfigError, match=expected):
        configfile.override(default.get_config(), key, text)


def test_every_config_of_the_project_loads():
    files = sorted((ROOT / "configs").glob("*.py"))
    assert len(files) >= 7
    for path in files:
        assert configfile.load(str(path)).seed == 0


DELTA = "from configs import default\ndef get_config():\n    config = default.get_config()\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (DELTA + "    config.optim.learning_rat = 1\n    return config",
         r"line 4 \(config\.optim\.learning_rat = 1\): .*'learning_rat'.* 'learning_rate'\?"),
        (DELTA + "    config.optim.zzz = 1\n    return config", r"line 4 .*'zzz'"),
        (DELTA + "    config.train.epochs = 'x'\n    return config", "line 4 .*TypeError"),
        (DELTA + "    return config.nothing", "line 4"),
        (DELTA, "must return a ConfigDict, it returned NoneType"),
        ("def get_config(:", "line 1"),
        ("import nothing_of_that_name", "line 1 .*nothing_of_that_name"),
        ("x = 1", "get_config"),
        ("x = 1 / 0", "line 1 .*ZeroDivisionError"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_config_file_is_named_with_its_line(tmp_path, text, expected):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(ConfigError, match=expected) as raised:
        configfile.load(str(path))
    assert "mine.py" in str(raised.value) and "\n" not in str(raised.value)


def test_a_file_that_is_not_there_or_no_python_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"no config file configs/lenett\.py"):
        configfile.load("configs/lenett.py")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="Python file"):
        configfile.load(str(tmp_path / "config.json"))
    with pytest.raises(ConfigError, match="no config file"):
        configfile.load(str(tmp_path))
