"""Checkpoints: what is read back is what was written, or the one before it."""

import collections
import errno
import os
import random
import resource
import shutil
import subprocess
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hcjax
from hcjax import trees
from hcjax.errors import CheckpointError
from hcjax.train.checkpoint import Checkpoints, nested, restructure
from tests import processes


def tree(step):
    """A small tree of every kind of leaf, different in each step."""
    rng = np.random.default_rng(step)
    return {
        "weights": {"a/b": rng.normal(size=(3, 5)).astype(np.float32)},
        "half": np.asarray(jnp.asarray(rng.normal(size=7), jnp.bfloat16)),
        "count": np.int32(step).reshape(()),
        "empty": np.zeros((0, 2), np.float32),
        "none": None,
    }


def write(workdir, *steps, keep=3):
    checkpoints = Checkpoints(workdir, keep=keep)
    for step in steps:
        checkpoints.save(step, tree(step), {"note": step})
    checkpoints.close()


def read(workdir):
    """Returns (step, arrays, record, warnings) as a reader sees them."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        checkpoints = Checkpoints(workdir)
        found = checkpoints.restore()
        checkpoints.close()
    return *found, [str(w.message) for w in caught if "damaged" in str(w.message)]


def assert_is(found, step):
    arrays = restructure(found, tree(step))
    for ours, theirs in zip(jax.tree.leaves(arrays), jax.tree.leaves(tree(step)), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A workdir with the checkpoints 4 and 8."""
    workdir = tmp_path_factory.mktemp("two")
    write(workdir, 4, 8)
    return workdir


def copy(two, tmp_path):
    shutil.rmtree(tmp_path / "copy", ignore_errors=True)
    shutil.copytree(two, tmp_path / "copy")
    return tmp_path / "copy"


def snapshot(folder):
    return {p.relative_to(folder): p.read_bytes() for p in processes.files(folder)}


def test_the_newest_is_read_back_to_the_bit(two):
    step, arrays, record, warned = read(two)
    assert (step, record, warned) == (8, {"note": 8}, [])
    assert_is(arrays, 8)


@pytest.mark.parametrize(
    "name", ["a[1]", "[", "b]c", "d\\e", "f*g", "q?x", "{x}", "ü n", "it's", "%41", "#1", "a:b"]
)
def test_no_path_is_a_pattern(name, tmp_path):
    for workdir in (tmp_path / name, tmp_path / name / "deeper"):
        write(workdir, 1, 2, 3, keep=2)
        assert processes.steps(workdir) == [2, 3]
        step, arrays, _, warned = read(workdir)
        assert step == 3 and not warned
        assert_is(arrays, 3)
    other = Checkpoints(tmp_path / name, keep=2)
    other.discard_after(2)
    other.close()
    assert read(tmp_path / name)[0] == 2 and (tmp_path / name / "checkpoints/damaged/3").is_dir()


def test_a_checkpoint_is_read_back_before_the_next_is_written(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path, keep=3)
    checkpoints.save(1, tree(1), {})
    checkpoints.wait()
    checkpoints.save(2, tree(2), {})
    checkpoints._manager.wait_until_finished()
    for path in (tmp_path / "checkpoints" / "2" / "meta").iterdir():
        path.write_bytes(path.read_bytes().replace(b"record", b"rekord"))
    with pytest.raises(CheckpointError, match=r"checkpoints/2 was written and cannot be read back"):
        checkpoints.save(3, tree(3), {})
    checkpoints.close()
    assert processes.steps(tmp_path) == [1, 2]


def test_only_the_newest_are_kept(tmp_path):
    write(tmp_path, 1, 2, 3, 4, keep=2)
    assert processes.steps(tmp_path) == [3, 4]


def test_a_step_that_is_there_is_left_as_it_is(two, tmp_path):
    workdir = copy(two, tmp_path)
    before = snapshot(workdir)
    write(workdir, 8)
    assert snapshot(workdir) == before


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


# Orbax's background loop complains of a closed loop when a read fails half-way
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_damage_of_any_file_is_noticed_or_harmless(two, tmp_path):
    """Each file of the last one truncated, emptied, removed, and with two random bits flipped."""
    rng = random.Random(0)
    damages = {
        "truncated": cut,
        "emptied": lambda p: p.write_bytes(b""),
        "removed": os.unlink,
        "flipped": lambda p: processes.flip(p, rng),
        "flipped again": lambda p: processes.flip(p, rng),
    }
    fell_back = collections.Counter()
    names = [p.relative_to(two) for p in processes.files(two / "checkpoints" / "8")]
    for name in names:
        for what, damage in damages.items():
            workdir = copy(two, tmp_path)
            damage(workdir / name)
            before = snapshot(workdir)
            step, arrays, record, warned = read(workdir)
            assert_is(arrays, step)
            assert record == {"note": step}
            assert snapshot(workdir) == before, "reading changes nothing"
            if step == 4:
                assert len(warned) == 1 and "checkpoints/8 is damaged" in warned[0], warned
                fell_back[what] += 1
            else:
                assert (step, warned) == (8, [])
    # not every file is needed to read (commit marks), but the arrays and the record are
    assert all(fell_back[what] >= 3 for what in damages), (fell_back, names)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_missing_part_falls_back(two, tmp_path):
    for part in ("arrays", "meta", "arrays/d"):
        workdir = copy(two, tmp_path)
        shutil.rmtree(workdir / "checkpoints" / "8" / part)
        step, arrays, *_ = read(workdir)
        assert_is(arrays, step)
        assert step == 4, part


def test_an_empty_folder_falls_back(two, tmp_path):
    workdir = copy(two, tmp_path)
    (workdir / "checkpoints" / "12").mkdir()
    step, _, _, warned = read(workdir)
    assert step == 8 and "checkpoints/12 is damaged" in warned[0]


def test_a_checkpoint_under_the_name_of_another_step_is_damaged(two, tmp_path):
    workdir = copy(two, tmp_path)
    (workdir / "checkpoints" / "8").rename(workdir / "checkpoints" / "9")
    step, _, _, warned = read(workdir)
    assert step == 4 and "of step 8" in warned[0]


def test_sound_arrays_of_another_step_are_damage(two, tmp_path):
    """Nothing but our own checksums can tell."""
    workdir = copy(two, tmp_path)
    shutil.rmtree(workdir / "checkpoints" / "8" / "arrays")
    shutil.copytree(two / "checkpoints" / "4" / "arrays", workdir / "checkpoints" / "8" / "arrays")
    step, _, _, warned = read(workdir)
    assert step == 4 and "does not have the checksum" in warned[0]


def test_a_record_that_still_parses_is_damage(two, tmp_path):
    workdir = copy(two, tmp_path)
    path = workdir / "checkpoints" / "8" / "meta" / "metadata"
    path.write_bytes(path.read_bytes().replace(b"note", b"nope"))
    step, _, record, warned = read(workdir)
    assert (step, record) == (4, {"note": 4}) and "its record does not have" in warned[0]


def test_all_damaged_is_an_error_that_deletes_nothing(two, tmp_path):
    workdir = copy(two, tmp_path)
    for step in (4, 8):
        for path in processes.files(workdir / "checkpoints" / str(step) / "meta"):
            path.write_bytes(b"{")
    before = snapshot(workdir)
    with (
        pytest.raises(CheckpointError, match=r"every checkpoint .* damaged: \['8', '4'\]"),
        pytest.warns(UserWarning, match="damaged"),
    ):
        read_for_writing(workdir)
    assert snapshot(workdir) == before


def read_for_writing(workdir):
    checkpoints = Checkpoints(workdir, keep=3)
    try:
        return checkpoints.restore()
    finally:
        checkpoints.close()


def test_a_half_written_one_is_cleaned_up_by_the_run_but_not_by_a_reader(two, tmp_path):
    workdir = copy(two, tmp_path)
    half = workdir / "checkpoints" / "12.orbax-checkpoint-tmp"
    shutil.copytree(workdir / "checkpoints" / "8", half)
    (half / "commit_success.txt").unlink()
    assert read(workdir)[0] == 8
    time.sleep(0.3)  # Orbax cleans up in the background
    assert half.exists()
    write(workdir, 12)
    step, arrays, *_ = read(workdir)
    assert step == 12 and not processes.half_written(workdir)
    assert_is(arrays, 12)


def test_damaged_ones_are_set_aside_and_their_steps_written_again(two, tmp_path):
    workdir = copy(two, tmp_path)
    cut(workdir / "checkpoints" / "8" / "meta" / "metadata")
    damaged = snapshot(workdir / "checkpoints" / "8")
    for _ in range(2):  # what is in damaged/ from the first time is replaced
        checkpoints = Checkpoints(workdir, keep=3)
        with pytest.warns(UserWarning, match="checkpoints/8 is damaged"):
            assert checkpoints.restore()[0] == 4
        checkpoints.discard_after(4)
        assert checkpoints.steps() == [4]
        assert snapshot(workdir / "checkpoints" / "damaged" / "8") == damaged
        checkpoints.save(8, tree(8), {"note": 8})
        checkpoints.close()
        assert processes.steps(workdir) == [4, 8]
        step, arrays, _, warned = read(workdir)
        assert (step, warned) == (8, [])
        assert_is(arrays, 8)
        cut(workdir / "checkpoints" / "8" / "meta" / "metadata")
        damaged = snapshot(workdir / "checkpoints" / "8")


def test_a_disk_with_too_little_room_is_refused_before_writing(two, tmp_path, monkeypatch):
    workdir = copy(two, tmp_path)
    usage = collections.namedtuple("usage", "total used free")
    before = snapshot(workdir)
    checkpoints = Checkpoints(workdir, keep=3)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1 << 30, 1 << 30, 10))
    with pytest.raises(CheckpointError, match=r"no room .* steps \[4, 8\] are intact"):
        checkpoints.save(12, tree(12), {})
    checkpoints.close()
    assert snapshot(workdir) == before


def big(step):
    return {"a": np.random.default_rng(step).random(300_000)}


def save_big(workdir, step):
    checkpoints = Checkpoints(workdir, keep=3)
    try:
        checkpoints.save(step, big(step), {})
        checkpoints.wait()
    finally:
        checkpoints.close()


def test_a_write_that_fails_is_an_error_and_leaves_the_others(two, tmp_path):
    """The system refuses files above 1 MB, which fails in the middle of a real write."""
    workdir = copy(two, tmp_path)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        with pytest.raises(CheckpointError, match=r"cannot write a checkpoint in .*copy"):
            save_big(workdir, 12)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    step, arrays, *_ = read(workdir)
    assert step == 8 and processes.steps(workdir) == [4, 8]
    assert_is(arrays, 8)
    save_big(workdir, 12)
    step, arrays, *_ = read(workdir)
    assert step == 12
    np.testing.assert_array_equal(arrays["a"], big(12)["a"])


def test_a_full_disk_is_named(two, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=5m", "tmpfs", str(small)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        workdir = copy(two, small)
        with pytest.raises(CheckpointError, match=r"disk is full.* intact|no room .* intact"):
            for step in (12, 16, 20):
                save_big(workdir, step)
        kept = processes.steps(workdir)
        step, _, _, warned = read(workdir)
        assert step == kept[-1] >= 8 and not warned
        subprocess.run(["mount", "-o", "remount,size=20m", str(small)], check=True)
        save_big(workdir, 24)
        assert read(workdir)[0] == 24
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_the_error_of_a_full_disk_says_so(tmp_path):
    from hcjax.train.checkpoint import _explained

    with pytest.raises(CheckpointError, match="the disk is full"), _explained(tmp_path):
        raise OSError(errno.ENOSPC, "x")


def test_reading_a_folder_without_checkpoints_makes_nothing(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.restore() is None
    checkpoints.close()
    assert list(tmp_path.iterdir()) == []


def test_other_names_shapes_or_types_are_refused_by_name():
    found = {"a/b": np.zeros((2, 3), np.float32), "c": np.int32(1)}
    with pytest.raises(CheckpointError, match=r"missing \['a/d'\], left over \['a/b'\]"):
        restructure(found, {"a": {"d": found["a/b"]}, "c": found["c"]})
    with pytest.raises(CheckpointError, match=r"a/b is float32\[2, 3\], .* float32\[2, 4\]"):
        restructure(found, {"a": {"b": np.zeros((2, 4), np.float32)}, "c": found["c"]})
    with pytest.raises(CheckpointError, match=r"c is int32\[\], .* int64\[\]"):
        restructure(found, {"a": {"b": found["a/b"]}, "c": np.int64(1)})


@pytest.mark.parametrize("tx", [optax.sgd(0.1), optax.adam(0.1)], ids=["sgd", "adam"])
@pytest.mark.parametrize("ema", [False, True])
def test_sums_in_bfloat16_of_an_earlier_version_are_refused_with_what_to_do(tx, ema):
    new = hcjax.init_state({"w": jnp.ones(2, jnp.bfloat16)}, {}, tx, ema=ema)
    old = new._replace(opt_state=tx.init(new.params), ema=(new.params, {}) if ema else None)
    arrays = {name: np.asarray(leaf) for name, leaf in trees.paths({"train": old})}
    with pytest.raises(CheckpointError, match=r"missing.*earlier version.*Begin again in"):
        restructure(arrays, {"train": new})
    if ema:  # of parameters whose optimiser has no copies, as of float32
        same = old._replace(ema=new.ema)
        with pytest.raises(CheckpointError, match=r"bfloat16\[2\], .* float32.*Begin again in"):
            restructure(arrays, {"train": same})
    other = hcjax.init_state({"w": jnp.ones(2, jnp.bfloat16)}, {}, optax.adam(0.1), ema=not ema)
    with pytest.raises(CheckpointError, match=r"the network or the optimiser is another one$"):
        restructure(dict(trees.paths({"train": other})), {"train": new})


def test_nested_of_an_absent_prefix_is_empty():
    assert nested({"a/b": 1}, "c") == {}
