"""`fit` and `evaluate` of arrays; epochs; the history's training loss; lines of equal windows."""

import shutil

import jax
import numpy as np
import optax
import pytest

import hcjax
from hcjax.errors import ConfigError, DataError
from hcjax.report import writers
from tests.tiny import images

X, Y = images(48)
SHAPE = (64, 3)


def apply(params, x):
    return x.reshape(x.shape[0], -1) @ params["w"]


def fit(data, params=None, **options):
    arguments = {
        "tx": optax.adam(0.1),
        "key": jax.random.key(0),
        "batch_size": 8,
        "quiet": True,
        "accelerate": False,
    }
    arguments |= {"loss": hcjax.losses.cross_entropy} | options
    params = {"w": np.zeros(SHAPE, np.float32)} if params is None else params
    return hcjax.fit(apply, params, data, **arguments)


def same(a, b):
    return hcjax.trees.sha256(a.params) == hcjax.trees.sha256(b.params)


def test_arrays_are_fitted_and_evaluated_as_they_are():
    floats = (X / 255).astype(np.float32)
    done = fit((floats, Y), epochs=4)
    assert done.step == 24
    x, y = images(30, seed=5)
    scored = hcjax.evaluate(apply, done.params, (x / 255, y.tolist()))
    logits = apply(done.params, x.astype(np.float32) / 255)  # nothing is taken off or divided by
    assert scored.summary["accuracy"] == np.mean(logits.argmax(1) == y) > 0.9
    assert scored.summary["examples"] == 30
    both = hcjax.evaluate(apply, done.params, ((floats, Y), (x, y)))
    assert both.summary["accuracy"] == scored.summary["accuracy"]
    assert same(done, fit(((floats, Y), (x, y)), steps=24))


def test_a_dataset_is_normalised_and_like_does_the_same_to_arrays():
    data = hcjax.data.Dataset(train=(X, Y), test=(X[::2], Y[::2]))
    done = fit(data, epochs=1)
    ours = hcjax.evaluate(apply, done.params, data).summary
    like = hcjax.evaluate(apply, done.params, (X[::2], Y[::2]), like=data).summary
    assert ours == like != hcjax.evaluate(apply, done.params, (X[::2], Y[::2])).summary


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ({}, "one of steps and epochs, got steps=None and epochs=None"),
        ({"steps": 1, "epochs": 1}, "one of steps and epochs"),
        ({"epochs": 0.01}, "enough for one step of 8 of 48 images"),
        ({"epochs": float("nan")}, "enough for one step"),
        ({"steps": 1.5}, "whole number"),
        ({"steps": -1}, "steps must be >= 0"),
    ],
)
def test_one_of_steps_and_epochs(steps, message):
    with pytest.raises(ConfigError, match=message):
        fit((X, Y), **steps)


def test_too_few_logits_are_named_where_labels_would_have_none():
    few = {"w": np.zeros((64, 2), np.float32)}
    with pytest.raises(ConfigError, match=r"logits \[N, 3\] for the 3 classes .*\[8, 2\]"):
        fit((X, Y), few, steps=1)
    with pytest.raises(ConfigError, match=r"logits \[N, 3\]"):
        hcjax.evaluate(apply, few, (X, Y))


def test_evaluating_what_is_not_there_is_named():
    params = {"w": np.zeros(SHAPE, np.float32)}
    with pytest.raises(DataError, match="part 'test' has no examples; there are 48 of train"):
        hcjax.evaluate(apply, params, hcjax.data.Dataset(train=(X, Y)))
    with pytest.raises(ConfigError, match="unknown part 'tst'; did you mean 'test'"):
        hcjax.evaluate(apply, params, (X, Y), part="tst")


def test_the_history_has_the_training_since_the_line_before():
    each = fit((X, Y), steps=9, eval_every=1).history
    found = fit((X, Y), steps=9, eval_every=4).history
    assert [line["step"] for line in found] == [4, 8, 9]
    for line, window in zip(found, (each[:4], each[4:8], each[8:]), strict=True):
        for key in ("train_loss", "train_accuracy"):
            assert line[key] == pytest.approx(np.mean([x[key] for x in window]), rel=1e-6)
    validated = fit({"train": (X, Y), "validation": (X, Y)}, steps=8, eval_every=4)
    assert validated.history[0] == found[0] | {
        k: validated.history[0][k] for k in ("nll", "accuracy", "ece")
    }
    assert "train_loss" not in repr(validated.params)


def test_lines_of_the_metrics_are_of_equal_windows_whenever_validations_are(tmp_path):
    data = {"train": (X, Y), "validation": (X[:9], Y[:9])}
    fit(data, steps=11, log_every=4, eval_every=5, checkpoint_every=7, workdir=tmp_path)
    lines = writers.read_metrics(tmp_path)
    steps = {s: [x["step"] for x in lines if x["split"] == s] for s in ("train", "validation")}
    assert steps == {"train": [4, 8, 11], "validation": [5, 10, 11]}


def test_a_history_goes_on_in_the_middle_of_a_window(tmp_path):
    options = {"log_every": 4, "eval_every": 4, "checkpoint_every": 6, "workdir": tmp_path}
    whole = fit((X, Y), steps=8, **options)
    shutil.rmtree(tmp_path / "checkpoints" / "8")
    again = fit((X, Y), steps=8, **options)  # from step 6
    assert same(again, whole) and again.history == whole.history
    assert [x["step"] for x in writers.read_metrics(tmp_path)] == [4, 8]
