"""What a notebook's cell shows of each record: a few lines, never its arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hcjax
from hcjax.core import brief
from hcjax.graph import qtensor
from hcjax.graph.coupling.channels import channels
from hcjax.train.evaluation import Evaluation
from hcjax.train.loop import Fit
from hcjax.train.step import init_state
from tests.tiny import images

X, Y = images(24)


def apply(params, x):
    return jax.nn.relu(x.reshape(x.shape[0], -1) @ params["w"]["kernel"]) @ params["v"]["kernel"]


def draw():
    rng = np.random.default_rng(0)
    shapes = {"w": (64, 100), "v": (100, 3)}
    return {k: {"kernel": rng.normal(size=s).astype(np.float32)} for k, s in shapes.items()}


def check(**records):
    """Holds records to a few lines without arrays."""
    for name, record in records.items():
        text = repr(record)
        assert len(text) < 1200 and text.count("\n") < 14, f"{name}:\n{text}"
        assert "array(" not in text and "Array(" not in text, f"{name}:\n{text}"


def test_no_record_prints_its_arrays():
    data = hcjax.data.from_arrays({"train": (X, Y), "validation": (X, Y)})
    params = draw()
    state = init_state(params, {}, optax.sgd(0.1, momentum=0.9))
    line = {"step": 3, "train_loss": 0.5, "nll": 0.4, "accuracy": 0.9}
    confusion = {"count": 10, "correct": 9, "nll": 3.0, "confusion": np.eye(1000, dtype=int)}
    model = hcjax.trace(apply, params, jnp.zeros((1, 8, 8, 1)))
    check(
        data=data,
        split=data.train,
        done=Fit(params, {}, 3, "steps", [line] * 99, 3, state, 1.0, 2.0, 3.0),
        evaluation=Evaluation(confusion, {"labels": Y}),
        train_state=state,
        model=model,
        graph=model.graph,
        op=model.graph.ops[0],
        qtensor=qtensor.quantize(jnp.ones((64, 100)), bits=4, axis=1),
        cost=hcjax.cost(model),
        channels=channels(model),
        gradual=hcjax.prune.gradual(0.5, begin=0, end=9).init(params),
    )
    assert repr(hcjax.cost(model)) == str(hcjax.cost(model))


@pytest.mark.slow
def test_no_record_of_a_measurement_prints_its_arrays():
    data = hcjax.data.from_arrays({"train": (X, Y), "test": (X, Y)})
    model = hcjax.trace(apply, draw(), jnp.zeros((1, 8, 8, 1)))
    inputs = hcjax.data.normalise(X, data.mean, data.std)
    ranges = hcjax.calibrate(model, inputs)
    card = hcjax.cards.scorecard(model, data, name="a", timed=False)
    check(
        int8=hcjax.int8(model, ranges),
        shared=hcjax.share(draw(), clusters=4),
        ranges=ranges,
        card=card,
        sensitivity=hcjax.sensitivity(model, inputs, Y, levels=(0.0, 0.9)),
        error_analysis=hcjax.error_analysis(model, ranges, inputs, Y, bits=4),
        changes=hcjax.changes(card, card, data),
    )


def test_a_fit_says_how_it_ended():
    line = {"step": 3, "train_loss": 0.5, "train_accuracy": 0.75, "nll": 0.4, "accuracy": 0.9}
    done = Fit({"w": np.zeros(9)}, {}, 3, "steps", [line], 3, None, 61.0, 2.0, 3.0)
    assert repr(done).splitlines() == [
        "Fit: 3 steps, 9 parameters; stopped by steps, best at step 3, 61 s of training",
        "  train loss 0.5",
        "  train accuracy 75.00 %",
        "  validation nll 0.4",
        "  validation accuracy 90.00 %",
    ]


def test_a_model_says_what_goes_in_and_out_and_how_much_it_is():
    model = hcjax.trace(apply, draw(), jnp.zeros((1, 8, 8, 1)))
    assert repr(model).splitlines() == [
        "Model",
        "  images      float32[N, 8, 8, 1]",
        "  outputs     float32[N, 3]",
        "  parameters  6,700 in 2 arrays, 26,800 bytes",
        "  MACs        6,700 an example, in 2 layers",
        "  ops         4: 2 dot_general, 1 reshape, 1 relu",
    ]


def test_values_are_described_by_type_and_shape():
    assert brief.value({"a": jnp.zeros((2, 3)), "b": [np.ones(2)] * 9}) == (
        "{'a': float32[2, 3], ... 2 items}"
    )
    assert brief.value((1,)) == "(1,)" and brief.value(list(range(7))) == "[0, 1, 2, ... 7 items]"
    assert brief.value("x" * 200) == "'" + "x" * 56 + "..."
