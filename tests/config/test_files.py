"""`--config=FILE --config.KEY=VALUE`: what is set, and what each mistake says."""

import sys

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
         r"line 4 \(config\.optim\.learning_rat = 1\): .*mean config\.optim\.learning_rate\?"),
        (DELTA + "    config.optim.lr = 1\n    return config",
         r"unknown key 'lr'; did you mean config\.optim\.learning_rate\? All keys are in "),
        (DELTA + "    p = config.prune\n    config.prune.lr = 1\n    return config",
         r"unknown key 'lr'; did you mean config\.prune\.learning_rate\?"),
        (DELTA + "    return config.optim.lr", r"'lr'; did you mean config\.optim\.learning"),
        (DELTA + "    config.optim.update(wd=1)\n    return config",
         r"'wd'; did you mean config\.optim\.weight_decay\?"),
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


def wrote(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


RATE = "\n    config.optim.learning_rate = {}\n    return config"


def test_a_config_that_comes_with_hcjax_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in ("configs/lenet.py", "./configs/lenet.py", "configs/../configs/lenet.py"):
        assert configfile.load(path).model.name == "lenet5"
    with pytest.raises(ConfigError, match=r"did you mean configs/lenet\.py\? .*resnet20"):
        configfile.load("configs/lenett.py")
    with pytest.raises(ConfigError, match=r"no config file elsewhere/lenet\.py"):
        configfile.load("elsewhere/lenet.py")  # only `configs` means those of hcjax


def test_the_file_of_the_current_folder_goes_before_the_one_that_comes_with_hcjax(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    wrote(tmp_path / "configs" / "lenet.py", DELTA + RATE.format(0.25))
    assert configfile.load("configs/lenet.py").optim.learning_rate == 0.25
    # its neighbour that is not there is hcjax's
    assert configfile.load("configs/lenet_int8.py").model.name == "lenet5"


def test_a_config_imports_those_beside_it_and_those_of_hcjax(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wrote(tmp_path / "configs" / "base.py", DELTA + RATE.format(0.5))
    delta = "from configs import base as default\n" + DELTA.partition("\n")[2]
    mine = wrote(tmp_path / "configs" / "mine.py", delta + "    return config")
    assert configfile.load(mine).optim.learning_rate == 0.5
    assert configfile.load("configs/mine.py").optim.learning_rate == 0.5
    loose = wrote(tmp_path / "loose.py", delta + "    return config")  # `configs` here, not there
    assert configfile.load(loose).optim.learning_rate == 0.5


def test_a_stranger_called_configs_does_not_come_between(tmp_path, monkeypatch):
    """Another project's configs/default.py, or a package of that name, is no part of ours."""
    monkeypatch.chdir(tmp_path)
    wrote(tmp_path / "configs" / "default.py", "raise RuntimeError('another project')")
    wrote(tmp_path / "site" / "configs" / "__init__.py", "raise RuntimeError('a package')")
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert configfile.load("configs/lenet.py").model.name == "lenet5"
    before = sys.modules["configs"]
    mine = wrote(tmp_path / "x" / "mine.py", DELTA + "    return config")
    (tmp_path / "configs" / "default.py").unlink()
    assert configfile.load(mine).model.name == "mnist_cnn"
    assert sys.modules["configs"] is before  # whatever was imported stays so
