"""Tasks: trained and scored by the ordinary `fit` and `evaluate`, on arrays of any shape."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hcjax
from hcjax.errors import ConfigError, DataError
from hcjax.tasks import TASKS
from hcjax.tasks.detection import average_precision, decode

RNG = np.random.default_rng(0)
X = RNG.standard_normal((48, 6), np.float32)
PIXELS = RNG.integers(0, 256, (48, 8, 8, 1), np.uint8)
LABELS = RNG.integers(0, 3, 48)
BOXES = np.stack([np.full((48, 2, 4), 0.5, np.float32) + 0.1 * RNG.random((48, 2, 4))])[0]


def dense(size):
    return {"w": 0.3 * jnp.asarray(RNG.standard_normal((6, size), np.float32))}


def on_vectors(shape):
    return lambda p, x: (x @ p["w"]).reshape(x.shape[0], *shape)


def on_pixels(p, x):
    return jax.nn.relu(x @ p["a"]) @ p["b"]


PIXEL = {"a": jnp.ones((1, 4)), "b": jnp.asarray(RNG.standard_normal((4, 3)), jnp.float32)}


def detector(p, x):
    y = (x @ p["w"]).reshape(x.shape[0], 4, 4, 6)
    return {"heat": y[..., :2] - 2, "box": y[..., 2:]}


# task -> network, parameters, inputs, targets
CASES = {
    "classification": (on_vectors((3,)), dense(3), X, LABELS),
    "multilabel": (on_vectors((3,)), dense(3), X, X[:, :3] > 0),
    "regression": (on_vectors((2, 2)), dense(4), X, X[:, :4].reshape(48, 2, 2)),
    "robust_regression": (on_vectors((1,)), dense(1), X, X[:, :1]),
    "segmentation": (on_pixels, PIXEL, PIXELS, (PIXELS[..., 0] > 99).astype(int)),
    "detection": (detector, dense(96), X, {"boxes": BOXES, "classes": np.tile([0, -1], (48, 1))}),
    "embedding": (on_vectors((4,)), dense(4), X, LABELS),
}


def fitted(name, tmp_path=None, steps=12, **options):
    apply, params, inputs, targets = CASES[name]
    data = hcjax.data.from_arrays(inputs, targets, validation=(inputs[:20], first(targets, 20)))
    options = {"batch_size": 16, "eval_batch_size": 16, "quiet": True, "eval_every": 6} | options
    return hcjax.fit(
        apply, params, data, task=name, tx=optax.adam(0.02), steps=steps,
        key=jax.random.key(0), workdir=tmp_path, **options,
    )  # fmt: skip


def first(tree, count):
    return jax.tree.map(lambda x: x[:count], tree)


def test_every_task_is_tried():
    assert CASES.keys() == TASKS.keys()


@pytest.mark.parametrize("name", TASKS)
def test_a_task_is_trained_and_scored(name):
    task, (apply, _, inputs, targets) = TASKS[name], CASES[name]
    done = fitted(name, steps=60, patience=20)
    first_line, last = done.history[0], done.history[-1]
    assert last["train_loss"] < first_line["train_loss"]
    assert set(task.shown) <= set(last) and f"train_{task.main}" in last
    scored = hcjax.evaluate(apply, done.params, _data(inputs, targets), task=name, batch_size=20)
    assert scored.summary["examples"] == 48
    for monitor, value in task.monitors.items():
        assert np.isfinite(value(scored.summary)), monitor
    # the size of the batches changes nothing, nor does the padding of the last
    other = hcjax.evaluate(apply, done.params, _data(inputs, targets), task=name, batch_size=48)
    for key in task.shown:
        if key != "nt_xent":  # of embeddings, which are compared within a batch
            np.testing.assert_allclose(scored.summary[key], other.summary[key], rtol=1e-5)


def _data(inputs, targets):
    return hcjax.data.from_arrays(inputs, targets, test=(inputs, targets))


@pytest.mark.parametrize("name", ["detection", "segmentation"])
def test_a_resumed_training_has_the_same_bits(name, tmp_path):
    whole = fitted(name, tmp_path / "whole")
    fitted(name, tmp_path / "parts", steps=6)
    parts = fitted(name, tmp_path / "parts")
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), whole.params, parts.params))
    assert whole.history[-1] == parts.history[-1]


def test_scores_are_those_of_numpy():
    apply, params, inputs, targets = CASES["regression"]
    y = np.asarray(apply(params, inputs))
    scores = hcjax.evaluate(apply, params, _data(inputs, targets), task="regression").summary
    np.testing.assert_allclose(scores["mse"], ((y - targets) ** 2).mean(), rtol=1e-5)
    np.testing.assert_allclose(scores["mae"], np.abs(y - targets).mean(), rtol=1e-5)
    spread = ((targets - targets.mean(0)) ** 2).mean()
    np.testing.assert_allclose(scores["r2"], 1 - ((y - targets) ** 2).mean() / spread, rtol=1e-4)

    apply, params, inputs, targets = CASES["segmentation"]
    said = np.asarray(apply(params, inputs / np.float32(255))).argmax(-1)
    scores = hcjax.evaluate(apply, params, _data(inputs, targets), task="segmentation").summary
    pairs = [(said == k, targets == k) for k in (0, 1)]
    ious = [(a & b).sum() / (a | b).sum() for a, b in pairs]
    np.testing.assert_allclose(scores["per_class"][:2], ious, rtol=1e-6)
    np.testing.assert_allclose(scores["accuracy"], (said == targets).mean(), rtol=1e-6)

    apply, params, inputs, targets = CASES["multilabel"]
    said = np.asarray(apply(params, inputs)) > 0
    scores = hcjax.evaluate(apply, params, _data(inputs, targets), task="multilabel").summary
    f1 = 2 * (said & targets).sum() / (said.sum() + targets.sum())
    np.testing.assert_allclose(scores["f1"], f1, rtol=1e-6)

    apply, params, inputs, targets = CASES["embedding"]
    z = np.asarray(apply(params, inputs))
    z = z / np.linalg.norm(z, axis=1, keepdims=True)
    near = z @ z.T - 2 * np.eye(48)
    scores = hcjax.evaluate(apply, params, _data(inputs, targets), task="embedding").summary
    assert scores["recall_at_1"] == (targets[near.argmax(1)] == targets).mean()


def test_true_boxes_are_found_and_duplicates_are_not():
    boxes = [[0.3, 0.3, 0.3, 0.3], [0.7, 0.6, 0.2, 0.4], [0.1, 0.9, 0.1, 0.1]]
    boxes = np.array([boxes], np.float32)
    classes = np.array([[0, 1, -1]])
    heat, box = np.full((1, 16, 16, 2), -9, np.float32), np.zeros((1, 16, 16, 4), np.float32)
    for (y, x, h, w), k in zip(boxes[0, :2], classes[0, :2], strict=True):
        row, column = int(16 * y), int(16 * x)
        heat[0, row, column, k] = 5
        middle = [16 * y - row - 0.5, 16 * x - column - 0.5]
        box[0, row, column] = [*middle, np.log(16 * h), np.log(16 * w)]
    heat[0, 4, 7, 0], box[0, 4, 7] = 3, box[0, 4, 4] + [0, -3, 0, 0]  # the first box once more
    heat[0, 12, 2, 1] = 4  # a box that is not there
    outputs = {"heat": jnp.asarray(heat), "box": jnp.asarray(box)}
    found = decode(outputs)
    sure = np.asarray(found.scores[0]) > 0.5
    assert np.asarray(found.classes)[0][sure].tolist() == [0, 1, 1]
    np.testing.assert_allclose(found.boxes[0, 0], boxes[0, 0], atol=1e-6)
    each = TASKS["detection"].each(outputs, {"boxes": boxes, "classes": classes})
    scores = average_precision(jax.device_get(each))
    assert scores["per_class"] == [1.0, 1.0] and scores["ap50"] == 1.0
    wrong = {"boxes": boxes + 0.3, "classes": classes}
    assert average_precision(jax.device_get(TASKS["detection"].each(outputs, wrong)))["ap50"] == 0


@pytest.mark.parametrize(
    "name, apply, message",
    [
        ("classification", on_vectors((1, 3)), r"must give logits \[N, 3\]"),
        ("multilabel", on_vectors((3, 1)), r"must give logits \[N, K\]"),
        ("regression", on_vectors((4,)), "arrays of one shape, got float32"),
        ("segmentation", lambda p, x: x.reshape(x.shape[0], -1) * p["b"][0, 0], "for every pixel"),
        ("detection", on_vectors((96,)), 'needs outputs "heat" and "box"'),
        ("embedding", on_vectors((2, 2)), r"must give embeddings \[N, D\]"),
    ],
)
def test_outputs_that_are_not_the_task_s_are_refused(name, apply, message):
    _, params, inputs, targets = CASES[name]
    size = {"multilabel": 3, "classification": 3, "detection": 96}.get(name, 4)
    params = PIXEL if name == "segmentation" else dense(size)
    with pytest.raises(ConfigError, match=message):
        hcjax.evaluate(apply, params, _data(inputs, targets), task=name)


@pytest.mark.parametrize(
    "inputs, targets, message",
    [
        (X, X[:5], "48 inputs have 5 targets"),
        ({"a": X, "b": X[:3]}, X, r"as many examples, found \[3, 48\]"),
        (np.where(X > 2, np.nan, X), X, "expected finite numbers"),
        (np.array(["a", "b"]), X[:2], "number the words"),
        (X, np.full(48, 2**40), "integers that int32 holds"),
    ],
)
def test_arrays_that_cannot_be_used_are_named(inputs, targets, message):
    with pytest.raises(DataError, match=message):
        hcjax.data.from_arrays(inputs, targets)


def test_a_task_is_named_or_given():
    assert hcjax.tasks.get(TASKS["regression"]) is hcjax.tasks.get("regression")
    with pytest.raises(ConfigError, match="did you mean 'regression'"):
        hcjax.tasks.get("regresion")
    with pytest.raises(ConfigError, match="is of images; of tokens are forget"):
        fitted("regression", augment=[("flip", {})])


def test_several_inputs_are_trained_and_traced():
    def network(p, inputs):
        tokens, image = inputs["tokens"], inputs["image"].reshape(inputs["image"].shape[0], -1)
        return p["e"][tokens].mean(1) @ p["o"] + image @ p["i"]

    inputs = {"tokens": RNG.integers(0, 9, (48, 5)), "image": PIXELS[:, :2, :2] / 255}
    params = {"e": jnp.ones((9, 4)), "o": jnp.ones((4, 3)) * 0.1, "i": jnp.ones((4, 3)) * 0.1}
    data = hcjax.data.from_arrays(inputs, LABELS, test=(inputs, LABELS))
    assert data.num_classes == 3 and "'tokens': int32[N, 5]" in repr(data)
    done = hcjax.fit(network, params, data, tx=optax.adam(0.05), epochs=4, batch_size=16,
                     key=jax.random.key(0), quiet=True)  # fmt: skip
    one = first(data.test.inputs, 1)
    model = hcjax.trace(network, done.params, one)
    scores = [hcjax.evaluate(f, p, data).summary for f, p in
              ((network, done.params), (model.apply, model.params))]  # fmt: skip
    assert scores[0] == scores[1]


def test_callbacks_see_every_line_and_may_stop(tmp_path):
    lines = []

    def stop(line, params, state):
        lines.append((line["step"], float(params["w"].sum())))
        return line["step"] >= 12

    done = fitted("regression", tmp_path, steps=30, callbacks=[stop, lambda *line: None])
    assert done.stopped == "callback" and done.step == 12 and [s for s, _ in lines] == [6, 12]
    assert lines[0][1] != lines[1][1]
    again = fitted("regression", tmp_path, steps=30, callbacks=[stop])
    assert again.stopped == "callback" and again.step == 12 and len(lines) == 2


def test_targets_that_no_output_is_of_are_named():
    apply, params, inputs, targets = CASES["segmentation"]
    with pytest.raises(DataError, match="targets are of classes that the network has no output"):
        hcjax.evaluate(apply, params, _data(inputs, 255 * targets), task="segmentation").summary  # noqa: B018
    with pytest.raises(DataError, match="targets are of classes that the network has no output"):
        CASES["segmentation"] = (apply, params, inputs, 255 * targets)
        try:
            fitted("segmentation")
        finally:
            CASES["segmentation"] = (apply, params, inputs, targets)


def test_masks_move_with_images_and_what_they_cannot_follow_is_refused():
    moves = [("flip", {}), ("affine", {}), ("noise", {"std": 0.01})]
    assert fitted("segmentation", augment=moves).step == 12
    with pytest.raises(ConfigError, match="'cutout' covers parts of images, and masks"):
        fitted("segmentation", augment=[("flip", {}), ("cutout", {})])


def test_labels_and_class_weights_that_cannot_be_are_named():
    with pytest.raises(DataError, match=r"labels must be in \[0, 0\)"):
        hcjax.data.Dataset(train=(PIXELS, np.full(48, -1)))
    with pytest.raises(ConfigError, match="class_weights must be one for each of the 0 classes"):
        fitted("regression", class_weights=np.ones(48))
