"""The README's notebook runs as written, and its first two commands are what CI runs."""

import re
from pathlib import Path

import jax
import pytest

import hcjax

README = (Path(__file__).parents[1] / "README.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.M | re.S)


@pytest.mark.slow
def test_the_notebook_trains_lenet_twice(capsys):
    names = {}
    exec(compile(blocks("python")[0], "README.md", "exec"), names)
    accuracies = [float(line) for line in capsys.readouterr().out.split()]
    assert len(accuracies) == 2
    assert min(accuracies) > 0.95  # 100 steps of 128 images; an untrained LeNet has 0.1
    exec(compile(blocks("python")[1], "README.md", "exec"), names)
    assert "max_pool_gradient: Sends" in capsys.readouterr().out
    exec(compile(blocks("python")[2], "README.md", "exec"), names)
    assert "2,293,000" in capsys.readouterr().out and names["logits"].shape == (8, 10)
    exec(compile(blocks("python")[3], "README.md", "exec"), names)
    assert "() True" in capsys.readouterr().out
    guessed = (names["logits"].argmax(1) == names["batch"]["label"]).mean()
    assert guessed > 0.9
    exec(compile(blocks("python")[4], "README.md", "exec"), names)
    size, equal = capsys.readouterr().out.split()
    assert 300_000 < int(size) < 431_080 * 1.02 + 4096 and equal == "True"
    exec(compile(blocks("python")[5], "README.md", "exec"), names)
    text = capsys.readouterr().out
    assert "of 10,000 test examples otherwise than float" in text and "SQNR (dB)" in text
    assert "times as fast" in text and len(names["mixed"].floats) < 4
    assert names["second"].macs == 2_293_000 and names["second"].nonzeros > 400_000
    exec(compile(blocks("python")[6], "README.md", "exec"), names)
    text = capsys.readouterr().out.split()
    assert text[0] == "accuracy" and int(text[-1]) == 43_050  # of 430,500 weights in kernels
    pruned = sum(int((~mask).sum()) for mask in names["masks"].values())
    assert 0.9 * 430_500 <= pruned < 430_500
    before = names["model"].apply(names["model"].params, names["images"])
    exec(compile(blocks("python")[7], "README.md", "exec"), names)
    part, size, trimmed = map(float, capsys.readouterr().out.split())
    assert 0.15 < part < 0.5 and trimmed < size < 20_000
    moments = jax.tree.map(lambda leaf: leaf.shape, names["opt_state"][0].mu)
    assert moments == jax.tree.map(lambda leaf: leaf.shape, names["small"].params)
    exec(compile(blocks("python")[8], "README.md", "exec"), names)
    *_, error, size = capsys.readouterr().out.split()
    assert float(error) < 0.05 and 100_000 < int(size) < 431_080 / 2 + 4096
    whole, thin = (hcjax.cost(names[name]).macs for name in ("model", "thin"))
    assert 0.4 * whole < thin <= 0.5 * whole
    distance = lambda name: abs(
        names[name].apply(names[name].params, names["images"]) - before
    ).max()
    assert distance("fine") < distance("rough")
    exec(compile(blocks("python")[9], "README.md", "exec"), names)
    assert "2,293,000" in capsys.readouterr().out
    kept = sum(int(m.sum()) for m in names["masks"].values() if m.ndim > 1)
    assert kept == 430_500 - int(0.9 * 430_500 + 0.5)
    assert hcjax.cost(names["small"]).macs < 0.5 * whole
    assert names["logits"].shape == (128, 10) and (names["loss"] == 0).all()
    back = hcjax.unpack(names["blob"])
    assert (back.apply(back.params, names["images"]) == names["logits"]).all()
    exec(compile(blocks("python")[10], "README.md", "exec"), names)
    shapes = jax.tree.map(lambda leaf: leaf.shape, names["done"].params)
    assert shapes == jax.tree.map(lambda leaf: leaf.shape, names["small"].params)
    assert names["done"].train_state.step == 100


def test_the_first_two_commands_are_one_line_each_and_make_their_own_environment():
    run, test = (block.strip() for block in blocks("sh")[:2])
    assert "\n" not in run + test
    assert run.startswith("python3 -m venv .venv && ")
    assert test.startswith("python3 -m venv .venv && ")
    assert "launch.py --config=configs/lenet.py" in run
    assert "-m pytest" in test


def test_every_config_named_in_the_readme_exists():
    for name in re.findall(r"configs/\w+\.py", README):
        assert (Path(__file__).parents[1] / name).exists(), name
