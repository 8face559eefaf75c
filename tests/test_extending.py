"""Everything of docs/extending.md is done, from outside the package, as the page says."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hcjax
from hcjax.accelerate.rules import RULES
from hcjax.app.stages import STAGES
from hcjax.graph.ops import KINDS
from tests import tiny

PAGE = (tiny.ROOT / "docs" / "extending.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.M | re.S)
CONFIG = next(block for block in BLOCKS if block.startswith("# my_config.py"))
TABLES = (
    KINDS, STAGES, hcjax.prune.SCORES, hcjax.data.SOURCES, hcjax.data.AUGMENTATIONS,
    hcjax.data.OTHERS, hcjax.tasks.TASKS, hcjax.optim.SCHEDULES, hcjax.optim.OPTIMIZERS,
    hcjax.models.MODELS, hcjax.losses.LOSSES, hcjax.export.TARGETS, hcjax.export.RUNTIMES,
    *RULES.values(),
)  # fmt: skip


@pytest.fixture(autouse=True)
def tables():
    """Takes the entries away again that a test adds."""
    before = [dict(table) for table in TABLES]
    yield
    for table, entries in zip(TABLES, before, strict=True):
        table.clear()
        table.update(entries)


def test_every_block_runs_in_order_and_prints_what_it_says(capsys):
    names = {}
    for block in BLOCKS:
        if block != CONFIG:
            exec(compile(block, "extending.md", "exec"), names)
    printed = capsys.readouterr().out.splitlines()
    made_by, floats, equal, shape, loss, exact, cube, *exported = printed
    assert exported == [
        f"{name} within 1e-05 of the range kept" for name in ("network.py", "network.hcz")
    ]
    assert (made_by, floats, equal) == ("('a',)", "()", "True")
    assert names["narrow"].params["a"].shape[1] < 8 and shape == str(
        names["narrow"].params["a"].shape
    )
    assert loss == "[1.0]" and float(exact) == 1.0 and float(cube) == 8.0
    assert int((~names["masks"]["a"]).sum() + (~names["masks"]["b"]).sum()) == 28  # of 56 weights
    init, apply = names["network"]
    logits, _ = apply(init(jax.random.key(0))[0], {}, jnp.ones((2, 28, 28, 1)))
    assert logits.shape == (2, 3)
    state = names["tx"].init({"w": jnp.ones(2)})
    updates, _ = names["tx"].update({"w": jnp.array([3.0, -1.0])}, state)
    np.testing.assert_allclose(updates["w"], [-1e-3, 1e-3])


@pytest.mark.slow
def test_a_config_file_brings_a_source_a_schedule_and_a_stage(tmp_path):
    path = tmp_path / "my_config.py"
    path.write_text(CONFIG)
    workdir = tmp_path / "run"
    cache = f"--config.cache_dir={tiny.folder() / 'cache'}"
    assert tiny.launch(f"--config={path}", f"--workdir={workdir}", cache, "--quiet") == 0
    report = json.loads((workdir / "report.json").read_text())
    assert [row["name"] for row in report["stages"]] == ["float", "rounded", "quantized"]
    assert report["stages"][0]["accuracy"] > 0.9  # two classes; by chance it is 0.5
    rounded, _ = hcjax.load_any(workdir / "1-rounded.hcz")
    for leaf in rounded.params.values():
        assert (np.asarray(64 * leaf) % 1 == 0).all()
    first = json.loads((workdir / "train" / "report.json").read_text())
    assert first["config"]["schedule"]["name"] == "halving"


def test_options_of_an_outside_stage_are_checked(tmp_path, capsys):
    path = tmp_path / "my_config.py"
    arguments = [f"--config={path}", f"--workdir={tmp_path / 'run'}", "--quiet"]
    path.write_text(CONFIG.replace('{"levels": 64}', '{"level": 64}'))
    assert tiny.launch(*arguments) == 2
    assert "unknown option of stage 'round' 'level'; did you mean 'levels'?" in (
        capsys.readouterr().err
    )
    path.write_text(CONFIG.replace('("round", "quantize")', '("quantize",)'))
    assert tiny.launch(*arguments) == 2
    assert "config.round.levels is set, but `round` is not in" in capsys.readouterr().err


def test_without_the_entries_the_names_are_unknown(tmp_path, capsys):
    lines = [line for line in CONFIG.splitlines() if not re.match(r"(SOURCES|STAGES)\[", line)]
    path = tmp_path / "my_config.py"
    path.write_text("\n".join(lines))
    assert tiny.launch(f"--config={path}", f"--workdir={tmp_path / 'run'}", "--quiet") == 2
    assert "unknown stage 'round'" in capsys.readouterr().err
    path.write_text(path.read_text().replace('("round", "quantize")', '("quantize",)'))
    assert tiny.launch(f"--config={path}", f"--workdir={tmp_path / 'run'}", "--quiet") == 2
    assert "nothing in this run reads config.round.levels" in capsys.readouterr().err
    path.write_text(path.read_text().replace('{"levels": 64}', "{}"))
    assert tiny.launch(f"--config={path}", f"--workdir={tmp_path / 'run'}", "--quiet") == 2
    assert "unknown data source 'stripes'" in capsys.readouterr().err
