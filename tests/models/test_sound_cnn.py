"""`sound_cnn`: from sounds to logits, in training and in integers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hcjax
from hcjax.models.sound_cnn import sound_cnn
from tests.draws import normal

NETWORK = sound_cnn(num_classes=4, input_shape=(2000,), filters=(4, 8, 4))
PARAMS, STATE = NETWORK.init(jax.random.key(0))
SOUNDS = np.asarray(0.1 * normal(8, 2000))


def test_loudness_and_level_do_not_matter():
    predict = jax.jit(hcjax.inference(NETWORK.apply, STATE))
    np.testing.assert_allclose(predict(PARAMS, SOUNDS), predict(PARAMS, 2 * SOUNDS), atol=5e-3)
    assert np.abs(predict(PARAMS, SOUNDS) - predict(PARAMS, SOUNDS[:, ::-1])).max() > 1e-3


def test_training_hides_parts_by_the_key_alone():
    train = jax.jit(lambda p, key: NETWORK.apply(p, STATE, SOUNDS, train=True, key=key))
    first, second = (train(PARAMS, jax.random.key(n))[0] for n in (0, 1))
    assert np.abs(first - second).max() > 1e-3
    np.testing.assert_array_equal(first, train(PARAMS, jax.random.key(0))[0])
    gradient = jax.jit(jax.grad(lambda p: train(p, jax.random.key(0))[0].var()))(PARAMS)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert np.abs(gradient["conv1"]["kernel"]).max() > 0
    with pytest.raises(ValueError, match="key="):
        NETWORK.apply(PARAMS, STATE, SOUNDS, train=True)


def test_integers_leave_the_picture_in_float_and_a_file_holds_it():
    model = hcjax.fold(hcjax.trace(hcjax.inference(NETWORK.apply, STATE), PARAMS, SOUNDS[:1]))
    wanted = NETWORK.apply(PARAMS, STATE, SOUNDS)[0]
    np.testing.assert_allclose(model.apply(model.params, SOUNDS), wanted, atol=1e-4)
    small = hcjax.int8(model, hcjax.calibrate(model, SOUNDS))
    assert len(small.floats) == 1 and "2000" in small.floats[0]
    blob = hcjax.pack(small)
    assert len(blob) < 4000  # waves of a spectrogram alone would take 160 kB
    back = hcjax.unpack(blob)
    logits = jax.jit(back.apply)(back.params, SOUNDS)
    np.testing.assert_array_equal(logits, jax.jit(small.apply)(small.params, SOUNDS))
    assert np.abs(logits - wanted).max() < 0.1 * np.abs(wanted).max()


@pytest.mark.parametrize(
    "options",
    [
        {"filters": (4,)},
        {"filters": (4, 0)},
        {"rate": 0},
        {"rate": 60},
        {"tempo": ()},
        {"tempo": (2.0, 1.0)},
        {"input_shape": (100,)},
        {"hidden_pitch": -1},
        {"hidden_time": -0.1},
        {"rate": 500},
        {"dropout": 1.0},
    ],
)
def test_options_out_of_range_are_named(options):
    with pytest.raises(hcjax.errors.ConfigError):
        network = sound_cnn(**options)
        jax.eval_shape(network.apply, *network.init(jax.random.key(0)), jnp.zeros((1, 8000)))
