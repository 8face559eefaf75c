"""The command line: what works, and that each mistake gives exit code 2 and one message."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.tiny import ROOT, flags, launch, npz, trained

DEFAULT = f"--config={ROOT / 'configs' / 'default.py'}"


def refused(capsys, *arguments):
    """Returns the one message of a command that is refused."""
    capsys.readouterr()
    code = launch(*arguments)
    output = capsys.readouterr()
    assert code == 2, output
    assert output.err.startswith("error: ") and output.err.count("\n") == 1, output.err
    return output.err


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return npz(tmp_path_factory.mktemp("data") / "tiny.npz")


def test_help_names_every_mode_and_ends_well(capsys):
    assert launch("--help") == 0
    text = capsys.readouterr().out
    for word in ("--config", "--eval", "--predict", "--plan", "--seeds", "--sweep", "report_data",
                 "--workdir", "profile", "configs/default.py", "launch.py"):  # fmt: skip
        assert word in text
    assert all(len(line) <= 100 for line in text.splitlines())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "--config=configs/NAME.py is needed"),
        (["--confg=x"], "Unknown command line flag 'confg'. Did you mean: config"),
        (["--lr=1"], "'lr'; did you mean --config.optim.learning_rate?"),
        (["--epochs=1"], "did you mean --config.train.epochs?"),
        (["--seeds=many", DEFAULT], "--seeds=many"),
        (["--config=configs/lenett.py"], "no config file configs/lenett.py"),
        (["--config=no/folder/x.py", "--report_data"], "no config file no/folder/x.py"),
        ([DEFAULT, "--config.optim.learning_rat=1"], "did you mean config.optim.learning_rate?"),
        ([DEFAULT, "--config.sed=1"], "did you mean config.seed?"),
        ([DEFAULT, "--config.seed=1.5"], "config.seed must be a whole number"),
        ([DEFAULT, "--config.seed"], "--config.seed=VALUE"),
        ([DEFAULT, "--config.seed", "--quiet"], "--config.seed=VALUE"),
        ([DEFAULT, "lenet"], "unexpected argument 'lenet'"),
        ([DEFAULT, "--eval=a", "--seeds=2"], "--eval and --seeds cannot be combined"),
        ([DEFAULT, "--seeds=0"], "--seeds must be at least 1, got 0"),
        ([DEFAULT, "--sweep=seed"], "--sweep needs KEY=V1,V2"),
        ([DEFAULT, "--sweep=sed=1,2"], "did you mean config.seed?"),
        ([DEFAULT, "--sweep=seed=1,x"], "config.seed must be a whole number, got 'x'"),
        ([DEFAULT, "--num_processes=2"], "need --coordinator"),
        ([DEFAULT, "--coordinator=here"], "coordinator must be host:port"),
        (["--eval=nowhere"], "nowhere holds no run"),
        (["--predict=nowhere"], "name image files"),
        (["--predict=nowhere", "a.png"], "nowhere: No such file"),
        ([DEFAULT, "--config.platform=abacus"], "platform must be one of"),
        ([DEFAULT, "--config.cache_dir=/proc/no/such"], "compilation cache"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_message(
    capsys, tmp_path, monkeypatch, arguments, expected
):
    monkeypatch.chdir(tmp_path)
    assert expected in refused(capsys, *arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("data.source=web", "unknown data source 'web'"),
        ("data.source=idx", "expected a folder"),
        ("data.path=/no/such.npz", "/no/such.npz"),
        ("data.path=None", "needs a path"),
        ("data.source=mnist", "config.data.path has no use"),
        ("data.validation=48", "validation=48"),
        ("data.validation=-1", "validation"),
        ("data.limit=0", "limit must be at least 1"),
        ("data.image_size=(8,0)", "image_size must be pixels"),
        ("data.channels=2", "channels must be 1"),
        ("data.threads=-1", "config.data.threads must be >= 0"),
        ("augment.use=flipp", "did you mean 'flip'?"),
        ("augment.flip.vertical=true", "nothing in this run reads config.augment.flip.vertical"),
        ("augment.use=crop --config.augment.crop.area=0.5", "augmentation crop cannot use"),
        ("augment.use=shift --config.augment.shift.pixels=-2", "augmentation shift: pixels"),
        ("model.name=seed_cn", "did you mean 'seed_cnn'?"),
        ("model.hidden=3", "'hidden'"),
        ("model.name=seed_cnn --config.model.filters=0", "cannot be built with"),
        ("model.name=seed_cnn --config.model.filters=3,3", "cannot be built with"),
        ("model.dropout=2", "dropout must be in [0, 1)"),
        ("model.dtype=float16", "dtype must be"),
        ("loss.name=mse", "unknown loss 'mse'"),
        ("loss.gamma=2", "'gamma'"),
        ("loss.l2=-1", "config.loss.l2 must be >= 0"),
        ("loss.class_weights=fair", "config.loss.class_weights must be"),
        ("optim.name=adamm", "did you mean 'adam'?"),
        ("optim.momentum=0.9", "optimizer 'adam'"),
        ("optim.learning_rate=0", "learning_rate must be > 0"),
        ("optim.freeze=conv9/.*", "parameters are: conv1/bias"),
        ("optim.freeze=[", "not a regular expression"),
        ("optim.freeze=.*", "freezes every parameter"),
        ("optim.accumulate_steps=0", "accumulate_steps must be >= 1"),
        ("schedule.name=x", "unknown schedule 'x'"),
        ("schedule.patience=2", "schedule 'constant'"),
        ("train.batch_size=0", "config.train.batch_size must be >= 1"),
        ("train.batch_size=None", "config.train.batch_size must have a value"),
        ("train.epochs=-1", "config.train.epochs must be >= 0"),
        ("train.log_every=0", "config.train.log_every must be >= 1"),
        ("train.keep=0", "config.train.keep must be >= 1"),
        ("train.patience=0", "config.train.patience must be >= 1"),
        ("train.monitor=loss", "monitor must be one of"),
        ("train.ema_decay=1", "decay must be in [0, 1)"),
        ("train.patience=1 --config.data.validation=0", "needs validation examples"),
        ("data.test=0 --config.data.path={untested}", "no test examples"),
        ("seed=-1", "config.seed must be in [0, 2**32)"),
        ("profile_steps=-1", "config.profile_steps must be >= 0"),
        ("init_from=/nowhere", "/nowhere holds no run"),
    ],
)
def test_a_mistake_in_a_config_is_one_message(capsys, tmp_path, data, change, expected):
    untested = npz(tmp_path / "untested.npz", test=0)
    changes = f"--config.{change.format(untested=untested)}".split(" ")
    message = refused(capsys, *flags(data), *changes, f"--workdir={tmp_path / 'run'}", "--quiet")
    assert expected in message


def test_a_batch_that_the_devices_cannot_share_is_refused(capsys, tmp_path, data):
    call = f"tiny.launch(*{flags(data)!r}, '--workdir=x')"
    program = f"import sys; from tests import tiny; sys.exit({call})"
    flag = "--xla_force_host_platform_device_count=3"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": flag}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, text=True,
        capture_output=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert "multiple of the 3 devices, got 16" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("platform", ["tpu", "gpu"])
def test_a_platform_that_is_absent_is_an_error_and_no_fallback(tmp_path, data, platform):
    if platform == "gpu" and os.path.exists("/dev/nvidia0"):
        pytest.skip("there is a GPU")
    if platform == "tpu" and os.path.exists("/dev/accel0"):
        pytest.skip("there is a TPU")
    command = [sys.executable, ROOT / "launch.py", *flags(data), f"--config.platform={platform}"]
    environment = {k: v for k, v in os.environ.items() if k != "JAX_PLATFORMS"}
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env=environment, timeout=120
    )
    assert done.returncode == 2, done.stderr
    *noise, message = done.stderr.splitlines()  # libtpu, where it is installed, says more
    assert message.startswith(f"error: platform '{platform}' was asked for and cannot be used")
    assert "Traceback" not in done.stderr and (platform == "tpu" or not noise)
    assert list(tmp_path.iterdir()) == []


def test_a_key_may_be_given_as_two_words_and_the_workdir_has_a_default(
    capsys, tmp_path, data, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert launch(*flags(data), "--config.train.epochs", "0") == 0
    (workdir,) = (tmp_path / "runs").iterdir()
    assert workdir.name.startswith("default-")
    assert f"workdir {workdir}" in capsys.readouterr().out
    assert (workdir / "report.json").exists()


def test_help_ends_quietly_where_nobody_reads_on():
    command = f"{sys.executable} {ROOT / 'launch.py'} --help | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stderr == "" and done.returncode in (0, 2)


@pytest.mark.slow
def test_everything_at_once_runs_and_scores_the_same_again(tmp_path, capsys, data):
    changes = {
        "model.name": "resnet_tiny", "model.dtype": "bfloat16", "train.ema_decay": 0.9,
        "augment.use": "shift,mixup", "loss.class_weights": "balanced", "loss.l1": 1e-5,
        "optim.name": "sgd", "optim.accumulate_steps": 2, "optim.clip_norm": 1,
        "schedule.name": "cosine", "model.sync_batchnorm": True,
    }  # fmt: skip
    keys = [f"--config.{key}={value}" for key, value in changes.items()]
    workdir = tmp_path / "run"
    assert launch(*flags(data), *keys, f"--workdir={workdir}", "--quiet") == 0
    report = json.loads((workdir / "report.json").read_text())
    assert launch(f"--eval={workdir}") == 0
    found = json.loads((workdir / "eval-npz-npz.json").read_text())
    assert found["nll"] == report["nll"]


def test_quiet_prints_nothing(capfd, tmp_path, data):
    assert launch(*flags(data), "--config.train.epochs=0", f"--workdir={tmp_path}", "--quiet") == 0
    output = capfd.readouterr()
    assert output.out == "" and output.err == ""


def test_report_data_describes_the_data_and_trains_nothing(capsys, tmp_path, data, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert launch(*flags(data), "--report_data") == 0
    text = capsys.readouterr().out
    assert "train 32, validation 16, test 21" in text and "bee" in text
    assert list(tmp_path.iterdir()) == []


def test_report_data_lists_every_image_that_cannot_be_read(capsys, tmp_path):
    for i in range(8):
        path = tmp_path / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((6, 6), 20 * i, np.uint8)).save(path)
    for i in (2, 5):
        (tmp_path / "ab"[i % 2] / f"{i}.png").write_bytes(b"not an image")
    source = ["--config.data.source=folder", f"--config.data.path={tmp_path}"]
    parts = ["--config.data.validation=0", "--config.data.test=0"]
    assert launch(DEFAULT, *source, *parts, "--config.data.image_size=6", "--report_data") == 0
    text = capsys.readouterr().out
    assert "unreadable images: train 2" in text and "2.png" in text and "5.png" in text


def test_a_workdir_that_is_a_file_is_one_message(capsys, tmp_path, data):
    (tmp_path / "file").write_text("x")
    for workdir in ("file", "file/below"):
        message = refused(capsys, *flags(data), f"--workdir={tmp_path / workdir}", "--quiet")
        assert str(tmp_path / "file") in message


@pytest.mark.parametrize("name", ["config.json", "report.json"])
@pytest.mark.parametrize("content", ["", "{", "[1]", "\0"])
def test_a_damaged_file_of_a_workdir_is_named(capsys, tmp_path, name, content):
    workdir = tmp_path / "run"
    workdir.mkdir()
    for path in trained().glob("*.json"):
        (workdir / path.name).write_bytes(path.read_bytes())
    (workdir / name).write_text(content)
    data = trained().parent / "data.npz"
    message = refused(capsys, *flags(data), f"--workdir={workdir}", "--quiet")
    assert f"cannot read {workdir / name}" in message


def test_a_report_without_its_config_is_refused(capsys, tmp_path, data):
    (tmp_path / "report.json").write_text("{}")
    assert "no config.json" in refused(capsys, *flags(data), f"--workdir={tmp_path}", "--quiet")


def test_another_config_in_a_workdir_is_refused_naming_the_keys(capsys):
    data = trained().parent / "data.npz"
    message = refused(
        capsys, *flags(data), "--config.optim.learning_rate=0.5", f"--workdir={trained()}"
    )
    assert "config.optim.learning_rate is 0.03 there, 0.5 here" in message
    assert message.count("there") == 1


def test_a_config_that_never_trained_leaves_the_workdir_free(capsys, tmp_path, data):
    workdir = f"--workdir={tmp_path / 'run'}"
    refused(capsys, *flags(data), "--config.optim.name=adamm", workdir, "--quiet")
    assert not (tmp_path / "run").exists()
    assert launch(*flags(data), "--config.train.epochs=0", workdir, "--quiet") == 0
