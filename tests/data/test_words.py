"""Augmentations of tokens: what is forgotten, where they are legal, and that `fit` applies them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hcjax
from hcjax.errors import ConfigError

TOKENS = np.random.default_rng(0).integers(0, 9, (64, 200)).astype(np.int32)


def prepared(inputs, augment, key=0, **facts):
    facts = {"mean": None, "std": None, "num_classes": 3} | facts
    prepare = hcjax.data.make_prepare(**facts, augment=augment)
    batch = {"inputs": inputs, "labels": np.zeros(len(inputs), np.int32),
             "position": np.arange(len(inputs), dtype=np.int32)}  # fmt: skip
    return prepare(batch, None if key is None else jax.random.key(key))["inputs"]


def test_a_share_of_the_tokens_is_unknown_and_nothing_else_changes():
    found = np.asarray(prepared(TOKENS, [("forget", {"rate": 0.25})]))
    changed = found != TOKENS
    assert (found[changed] == 1).all() and not changed[TOKENS == 0].any()
    assert 0.23 < changed[TOKENS > 1].mean() < 0.27
    np.testing.assert_array_equal(prepared(TOKENS, [("forget", {})], key=None), TOKENS)
    again, other = (prepared(TOKENS, [("forget", {"rate": 0.25})], key=k) for k in (0, 1))
    np.testing.assert_array_equal(found, again)
    assert not np.array_equal(found, other)
    assert not np.array_equal(changed[0], changed[1])  # each text has a key of its own


@pytest.mark.parametrize(
    "inputs, augment, facts, message",
    [
        (TOKENS, [("flip", {})], {}, "'flip' is of images; of tokens are forget"),
        (TOKENS / 2, [("forget", {})], {}, "'forget' is of tokens, and these are none"),
        (TOKENS, [("forget", {"rate": 2})], {}, r"rate must be in \[0, 1\]"),
        (np.zeros((1, 4, 4, 1), np.uint8), [("forget", {})],
         {"mean": np.zeros(1), "std": np.ones(1)}, "is of tokens, and these are images"),
    ],
)  # fmt: skip
def test_where_it_is_not_legal_it_is_refused(inputs, augment, facts, message):
    with pytest.raises(ConfigError, match=message):
        prepared(inputs, augment, **facts)


def test_the_teacher_and_the_student_see_the_same_text():
    labels = (TOKENS[:, 0] % 3).astype(np.int32)

    def apply(params, x):
        return params["table"][x].mean(1)

    params = {"table": jnp.asarray(np.random.default_rng(1).normal(size=(9, 3)), jnp.float32)}
    loss = hcjax.distill.taught(hcjax.losses.cross_entropy, weight=1.0)
    data = hcjax.data.from_arrays(TOKENS, labels)
    done = hcjax.fit(apply, params, data, loss=loss, teacher=lambda x: apply(params, x),
                     tx=optax.sgd(1.0), steps=2, batch_size=32, key=jax.random.key(0),
                     augment=[("forget", {"rate": 0.9})], quiet=True)  # fmt: skip
    np.testing.assert_allclose(done.params["table"], params["table"], atol=1e-5)
