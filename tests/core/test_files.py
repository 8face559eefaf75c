import json
import os
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from hcjax import errors
from hcjax.core import files


def test_every_kind_of_number_becomes_a_plain_one(tmp_path):
    obj = {
        "numpy": np.float32(0.5),
        "jax": jnp.int32(3),
        "bfloat16": jnp.bfloat16(1.5),
        "bfloat16s": jnp.array([0.25, np.nan], jnp.bfloat16),
        "flag": np.bool_(True),
        "array": np.arange(4).reshape(2, 2),
        "path": pathlib.Path("run"),
        "tuple": (1, "a", None),
        7: {"float64": np.float64(0.1)},
    }
    path = files.write_json(tmp_path / "new" / "report.json", obj)
    assert json.loads(path.read_text()) == {
        "numpy": 0.5,
        "jax": 3,
        "bfloat16": 1.5,
        "bfloat16s": [0.25, None],
        "flag": True,
        "array": [[0, 1], [2, 3]],
        "path": "run",
        "tuple": [1, "a", None],
        "7": {"float64": 0.1},
    }


def test_what_is_not_finite_is_null_everywhere(tmp_path):
    bad = [float("nan"), np.float32("inf"), jnp.float32("-inf"), np.float64("nan")]
    text = files.write_json(tmp_path / "a.json", bad).read_text()
    assert json.loads(text, parse_constant=pytest.fail) == [None] * 4


def test_a_value_without_a_json_form_is_named_by_its_place(tmp_path):
    with pytest.raises(TypeError, match=r"config\.layers\[1\] cannot be written as JSON: set"):
        files.write_json(tmp_path / "a.json", {"config": {"layers": [1, {2}]}})
    assert os.listdir(tmp_path) == []


def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path, monkeypatch):
    path = files.write_bytes(tmp_path / "a.json", b"old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(errors.CheckpointError, match=r"a\.json: No space left.*free some space"):
        files.write_bytes(path, b"new, and longer")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.json"]
