"""A wheel in an environment of its own, far from the checkout, runs the docs' commands and tour."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from importlib import metadata

import pytest

from tests.test_docs import PAGES
from tests.test_readme import blocks
from tests.tiny import ROOT, npz, pictures

pytestmark = pytest.mark.slow


def called(*command, cwd, code=0):
    """Returns what a program prints, with nothing of this checkout on its way."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == code, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def has_setuptools():
    """Tells whether the wheel can be built without fetching what builds it."""
    try:
        return int(metadata.version("setuptools").partition(".")[0]) >= 77
    except metadata.PackageNotFoundError:
        return False


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Returns a folder with an environment, `env`, in which only the wheel of hcjax is new."""
    home = tmp_path_factory.mktemp("installed")
    source = home / "source"  # a copy: building writes into the folder
    for name in ("hcjax", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip"]
    build = ["wheel", "-q", "--no-deps", "-w", home / "wheels", source]
    called(*pip, *build, *(["--no-build-isolation"] if has_setuptools() else []), cwd=home)
    shutil.rmtree(source)
    (wheel,) = (home / "wheels").glob("hcjax-*.whl")
    venv.create(home / "env")
    python = home / "env" / "bin" / "python"
    install = ["install", "-q", "--no-deps", "--no-index", wheel]
    called(*pip, "--python", python, *install, cwd=home)
    (site,) = (home / "env").glob("lib/python*/site-packages")
    # the packages that hcjax needs, as they are here, without what is installed for editing
    (site / "others.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return home


def hcjax(home, *arguments, cwd=None, code=0):
    return called(home / "env" / "bin" / "hcjax", *arguments, cwd=cwd or home, code=code)


def test_the_wheel_is_what_runs_and_holds_every_config(home, tmp_path):
    where = "import hcjax, pathlib; print(pathlib.Path(hcjax.__file__).parent)"
    package = called(home / "env" / "bin" / "python", "-c", where, cwd=home).strip()
    assert package.startswith(str(home))
    for path in (ROOT / "configs").glob("*.py"):
        arguments = [f"--config=configs/{path.name}", "--config.seeed=1"]
        text = hcjax(home, "train", *arguments, cwd=tmp_path, code=2)
        assert "did you mean config.seed?" in text and f"{package}/_configs/default.py" in text


def test_the_commands_of_the_docs_from_another_folder(home, tmp_path):
    assert set(re.findall(r"^hcjax (\w+)", PAGES["docs/cli.md"], flags=re.M)) == {
        "train",
        "predict",
        "verify",
        "compare",
    }
    data = npz(tmp_path / "data.npz", side=28, classes=[str(i) for i in range(3)], train=64)
    tiny = {
        "data.source": "npz", "data.path": data, "data.validation": 16, "train.batch_size": 16,
        "train.epochs": 1.0, "cache_dir": home / "cache",
    }  # fmt: skip
    tiny = [f"--config.{key}={value}" for key, value in tiny.items()]
    here = {"cwd": tmp_path}
    smaller = ["--config.model.name=seed_cnn_tiny", "--config.model.activation=None"]
    lenet = ["train", "--config=configs/lenet.py", *tiny, *smaller]
    assert "train 48" in hcjax(home, *lenet, "--report_data", **here)
    text = hcjax(home, *lenet, "--workdir=run", **here)
    assert "configs" not in {p.name for p in tmp_path.iterdir()} and "test accuracy" in text
    hcjax(home, "train", "--eval=run", **here)
    hcjax(home, *lenet, "--seeds=2", "--quiet", **here)
    (study,) = (tmp_path / "runs").glob("lenet-*-seeds/seeds.json")
    assert json.loads(study.read_text())["n"] == 2
    staged = ["train", "--config=configs/lenet_int8.py", *tiny, "--config.quantize.images=16"]
    staged += ["--config.quantize.epochs=0", "--config.quantize.learning_rate=None"]
    staged += ["--config.teacher=run", "--workdir=small"]
    hcjax(home, *staged, "--config.train.ema_decay=None", **here)
    pictures(tmp_path / "images")
    for network in ("run", "small", "small/1-quantized.hcz"):
        text = hcjax(home, "predict", network, "images", "--top_k=3", "--json=said.json", **here)
        assert text.count(" %") == 18, text
    assert "accuracy" in hcjax(home, "verify", "small", "--notimed", "--json=v.json", **here)
    hcjax(home, "compare", "run", "small/1-quantized.hcz", "--notimed", "--plot=p.png", **here)


def test_a_config_of_ones_own_and_a_folder_of_configs(home, tmp_path):
    data = npz(tmp_path / "data.npz")
    text = (
        "from configs import default\n\ndef get_config():\n    config = default.get_config()\n"
        f"    config.data.source, config.data.path = 'npz', {str(data)!r}\n"
        "    config.data.validation = 7\n    return config\n"
    )
    (tmp_path / "mine.py").write_text(text)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "lenet.py").write_text(text.replace("= 7", "= 9"))
    for path, left in (("mine.py", 41), ("configs/lenet.py", 39)):
        report = hcjax(home, "train", f"--config={path}", "--report_data", cwd=tmp_path)
        assert f"train {left}, validation {48 - left}" in report


def test_source_tfds_names_its_extra(home, tmp_path):
    """The package is hidden: the others' folder has it."""
    code = (
        "import sys; sys.modules['tensorflow_datasets'] = None;"
        "from hcjax.app.commands import main;"
        "sys.exit(main(['hcjax', 'train', '--config=configs/resnet20.py', '--report_data',"
        " '--config.data.source=tfds', '--config.data.name=cifar10']))"
    )
    text = called(home / "env" / "bin" / "python", "-c", code, cwd=tmp_path, code=2)
    assert "pip install 'hcjax[tfds]'" in text and "Traceback" not in text


def test_the_tour_of_the_readme_runs_with_the_wheel(home, tmp_path):
    (tmp_path / "notebook.py").write_text(blocks("python")[0])
    text = called(home / "env" / "bin" / "python", "notebook.py", cwd=tmp_path)
    (line,) = [line for line in text.splitlines() if line.startswith("int8 ")]
    assert float(line.split()[1]) > 94 and (tmp_path / "net.hcz").exists(), line
