"""A run that is stopped, damaged or refused: it goes on to the same bits, or says what to do."""

import dataclasses
import os
import random
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hcjax
from hcjax.devices import hosts
from hcjax.errors import CheckpointError, DivergedError
from hcjax.train import session
from hcjax.train.checkpoint import Checkpoints
from hcjax.train.loop import fit
from tests import processes


@pytest.fixture(scope="module")
def whole(tmp_path_factory, compiled):
    """The workdir of a run that nothing stopped."""
    workdir = tmp_path_factory.mktemp("whole")
    code, _, err = processes.launch(processes.flags(workdir, compiled, processes.EVERYTHING))
    assert code == 0, err
    return workdir


@pytest.mark.slow
def test_a_run_stopped_five_times_ends_like_one_that_was_not(whole, tmp_path, compiled):
    """SIGKILL at random moments and in the middle of a checkpoint, SIGTERM, and a flipped bit."""
    seed = int.from_bytes(os.urandom(4))
    print(f"random.Random({seed})")  # pytest shows it if the test fails
    rng = random.Random(seed)
    flags = processes.flags(tmp_path, compiled, processes.EVERYTHING)

    def stop(number, **options):
        with processes.Program(flags) as program:
            return processes.stop(program, tmp_path, number, **options)

    stop(signal.SIGTERM)
    newest = processes.steps(tmp_path)[-1]
    assert not processes.half_written(tmp_path)

    stop(signal.SIGKILL, delay=rng.uniform(0, 0.1))
    assert processes.steps(tmp_path)[-1] > newest
    newest = processes.steps(tmp_path)[-1]
    damaged = tmp_path / "checkpoints" / str(newest)
    flipped = processes.flip(damaged / "meta" / "metadata", rng)
    err = stop(signal.SIGKILL, writing=True)
    assert processes.warned_of(err) == [newest], (flipped, err)
    assert (tmp_path / "checkpoints" / "damaged" / str(newest)).is_dir()

    stop(signal.SIGKILL, delay=rng.uniform(0, 0.1))
    code, _, err = processes.launch(flags)
    assert (code, processes.warned_of(err)) == (0, []), err
    assert processes.result(tmp_path) == processes.result(whole)


@pytest.mark.slow
def test_a_workdir_of_another_config_is_refused_by_name(whole, compiled):
    before = {p: p.stat().st_mtime_ns for p in processes.files(whole)}
    config = processes.EVERYTHING | {"optim.learning_rate": 1e-3, "seed": 7}
    code, out, err = processes.launch(processes.flags(whole, compiled, config))
    assert (code, out) == (2, "") and "Traceback" not in err
    for words in ("config.optim.learning_rate", "0.003", "0.001", "config.seed", "--workdir"):
        assert words in err
    assert {p: p.stat().st_mtime_ns for p in processes.files(whole)} == before


def network():
    """Returns (apply, params, state): a dense layer with running statistics and dropout."""

    def apply(params, state, images, *, train, key):
        x = images.reshape(len(images), -1)
        if train:
            state = {"mean": 0.9 * state["mean"] + 0.1 * x.mean(0)}
            x = x * jax.random.bernoulli(key, 0.8, x.shape) / 0.8
        return (x - state["mean"]) @ params["kernel"] + params["bias"], state

    params = {"kernel": jnp.zeros((784, 10)), "bias": jnp.zeros(10)}
    return apply, params, {"mean": jnp.zeros(784)}


@pytest.fixture(scope="module")
def images():
    return hcjax.data.load("mnist", validation=200, limit=300)


def train(images, steps, workdir=None, **changes):
    """Trains with everything on: 4 steps are 2 + 2."""
    apply, params, state = network()
    options = {
        "loss": hcjax.losses.cross_entropy,
        "tx": optax.adamw(optax.cosine_decay_schedule(1e-2, 10)),
        "key": jax.random.key(3),
        "state": state,
        "batch_size": 32,
        "augment": [("noise", {}), ("mixup", {})],
        "ema_decay": 0.9,
        "eval_every": 1,
        "patience": 5,
        "log_every": 3,
        "checkpoint_every": 2,
        "quiet": True,
    }
    options |= changes
    return fit(apply, params, images, steps=steps, workdir=workdir, **options)


def rate(step, last):
    """Returns a learning rate that is sound for so many steps and then `last`."""
    return lambda count: jnp.where(count < step, 1e-2, last)


def test_four_steps_are_two_and_two(images, tmp_path):
    """The last two steps are too long, so that the best parameters come from the first part."""
    tx = optax.adamw(rate(2, 3.0))
    whole = train(images, 4, tx=tx)
    train(images, 2, tmp_path, tx=tx)
    parts = train(images, 4, tmp_path, tx=tx)
    assert parts.best_step == whole.best_step == 2
    assert parts.step == 4 and parts.history == whole.history and len(whole.history) == 4
    for ours, theirs in zip(
        jax.tree.leaves((parts.train_state, parts.params, parts.state)),
        jax.tree.leaves((whole.train_state, whole.params, whole.state)),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_sigterm_in_the_middle_of_a_line_of_the_metrics_changes_nothing(
    images, tmp_path, monkeypatch
):
    """SIGTERM in step 5; lines end at steps 3, 6 and 8, checkpoints are of 4 and 8."""
    options = {"eval_every": 7, "checkpoint_every": 4}
    train(images, 8, tmp_path / "whole", **options)
    add = session.Session.add

    def interrupted(self, *args):
        add(self, *args)
        if self.step == 5:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(session.Session, "add", interrupted)
        part = train(images, 8, tmp_path / "parts", **options)
    assert (part.step, part.stopped) == (5, "preempted")
    assert processes.steps(tmp_path / "parts") == [4, 5]
    assert train(images, 8, tmp_path / "parts", **options).step == 8
    ours, theirs = (tmp_path / name / "metrics.jsonl" for name in ("parts", "whole"))
    assert ours.read_text() == theirs.read_text()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_run_that_lost_patience_stays_stopped(images, tmp_path):
    """With a rate of 0 no validation is better than the first, with ties not counting."""
    options = {"tx": optax.sgd(0.0), "ema_decay": None, "patience": 2, "augment": ()}
    apply, params, _ = network()
    still = lambda params, x: apply(params, {"mean": 0.0}, x, train=False, key=None)[0]
    runs = [
        fit(
            still,
            params,
            images,
            loss=hcjax.losses.cross_entropy,
            key=jax.random.key(0),
            steps=50,
            eval_every=1,
            workdir=tmp_path,
            quiet=True,
            **options,
        )
        for _ in range(2)
    ]
    assert [(r.step, r.stopped, len(r.history)) for r in runs] == [(3, "patience", 3)] * 2


def test_fewer_steps_than_are_done_are_refused_with_both(images, tmp_path):
    train(images, 4, tmp_path)
    with pytest.raises(CheckpointError, match=r"holds 4 steps of this run, and 2 are asked.*4 or"):
        train(images, 2, tmp_path)
    assert train(images, 4, tmp_path).step == 4


def test_a_workdir_of_other_arguments_is_refused_by_name(images, tmp_path):
    train(images, 1, tmp_path)
    with pytest.raises(CheckpointError, match=r"batch_size: there 32, here 16.*another workdir"):
        train(images, 2, tmp_path, batch_size=16)
    with pytest.raises(CheckpointError, match=r"key: there 3, here 4"):
        train(images, 2, tmp_path, key=jax.random.key(4))
    with pytest.raises(CheckpointError, match=r"missing .*trace/bias.*left over .*mu/bias"):
        train(images, 2, tmp_path, tx=optax.sgd(0.1, momentum=0.9))
    assert train(images, 2, tmp_path).step == 2


def test_the_same_arguments_in_other_types_are_the_same_run(images, tmp_path):
    """JSON, which a checkpoint's record is, knows neither tuples nor NumPy."""
    crop = {"area": (0.5, np.float32(0.1) + 0.9), "aspect": (0.75, 4 / 3)}
    options = {"augment": (("crop", crop),), "batch_size": np.int64(32)}
    train(images, 1, tmp_path, **options)
    assert train(images, 2, tmp_path, **options).step == 2


def swapped(labels):
    """Returns the labels with the first two different ones exchanged."""
    other = int(np.flatnonzero(labels != labels[0])[0])
    labels = labels.copy()
    labels[[0, other]] = labels[[other, 0]]
    return labels


@pytest.mark.parametrize("what", ["mean", "std", "class_names", "labels_sha256"])
def test_a_workdir_of_other_data_is_refused_by_name(images, tmp_path, what):
    train(images, 1, tmp_path)
    labels = swapped(images.train.labels)
    changes = {
        "mean": {"mean": images.mean + 0.01},
        "std": {"std": images.std * 2},
        "class_names": {"class_names": images.class_names[::-1]},
        "labels_sha256": {"train": images.train._replace(targets=labels)},
    }
    with pytest.raises(CheckpointError, match=rf"arguments \({what}: there [^;]*\)"):
        train(dataclasses.replace(images, **changes[what]), 2, tmp_path)


def test_processes_that_would_go_on_from_different_steps_are_named(images, tmp_path, monkeypatch):
    train(images, 1, tmp_path)
    # two calls: whether the workdir is free, then the step
    monkeypatch.setattr(hosts, "gather", lambda found: [found, found and 7])
    with pytest.raises(CheckpointError, match=r"rank 0 goes on from step 1, rank 1 .* step 7"):
        train(images, 2, tmp_path)


def test_a_run_whose_steps_are_all_done_still_says_how_fast_they_were(images, tmp_path):
    done = train(images, 4, tmp_path)
    again = train(images, 4, tmp_path)
    assert again.step == 4 and done.images_per_second > 0
    assert again.seconds_to_first_step == done.seconds_to_first_step > 0
    assert again.images_per_second > 0


def assert_restored_finite(workdir, step):
    checkpoints = Checkpoints(workdir)
    found, arrays, _ = checkpoints.restore()
    checkpoints.close()
    assert found == step and processes.steps(workdir) == [step]
    assert all(np.isfinite(a.astype(np.float32)).all() for a in arrays.values())


def test_a_loss_that_is_not_finite_stops_with_the_steps_and_what_to_try(images, tmp_path):
    """The update of step 4 overflows the logits of step 5; lines end at steps 3 and 6."""
    options = {"tx": optax.sgd(rate(3, 1e38)), "eval_every": 50, "checkpoint_every": 50}
    train(images, 2, tmp_path, **options)
    with pytest.raises(DivergedError, match=r"in steps 5 to 6; try a lower learning rate"):
        train(images, 40, tmp_path, **options)
    assert_restored_finite(tmp_path, 2)


def test_no_checkpoint_is_saved_of_parameters_that_are_not_finite(images, tmp_path):
    """The update of the last step makes them infinite, which no loss has seen yet."""
    options = {"tx": optax.sgd(rate(3, jnp.inf)), "eval_every": 50}
    with pytest.raises(DivergedError, match="bias after step 4"):
        train(images, 4, tmp_path, **options)
    assert_restored_finite(tmp_path, 2)


def test_a_full_disk_stops_a_run_and_more_room_lets_it_go_on(images, tmp_path, monkeypatch):
    whole = train(images, 8)
    save, calls = Checkpoints.save, []

    def full(self, step, tree, record):
        calls.append(step)
        if step == 6:
            monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10))
        return save(self, step, tree, record)

    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch, pytest.raises(CheckpointError, match="no room"):
        patch.setattr(Checkpoints, "save", full)
        train(images, 8, tmp_path)
    monkeypatch.undo()
    assert calls == [2, 4, 6] and processes.steps(tmp_path) == [2, 4]
    parts = train(images, 8, tmp_path)
    np.testing.assert_array_equal(parts.params["kernel"], whole.params["kernel"])
