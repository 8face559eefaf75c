import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hcjax.data import augment, batches, prepare
from hcjax.data.dataset import Split
from hcjax.errors import ConfigError
from hcjax.runs import workdir

MEAN, STD = np.array([0.2, 0.4, 0.6]), np.array([0.5, 0.25, 1.0])
KEY = jax.random.key(7)
SEVERAL = [("affine", {}), ("flip", {}), ("mixup", {"alpha": 1.0})]


def make(augmentations=(), num_classes=4):
    return prepare.make_prepare(mean=MEAN, std=STD, num_classes=num_classes, augment=augmentations)


@functools.cache
def several():
    """Prepares with several augmentations; compiled once for all tests."""
    return jax.jit(make(SEVERAL))


@pytest.fixture
def split(images):
    return Split(images, np.arange(20, dtype=np.int32) % 4)


def batch_of(split, **arguments):
    return next(
        batches.train_batches(split, **({"seed": 0, "batch_size": 8, "partners": True} | arguments))
    )


def test_without_augmentation_bytes_become_normalised_floats(split):
    batch = batch_of(split, partners=False)
    ready = jax.jit(make())(batch, KEY)
    np.testing.assert_allclose(ready["inputs"], (batch["inputs"] / 255 - MEAN) / STD, atol=1e-5)
    assert ready["inputs"].dtype == jnp.float32
    assert ready["target"].tolist() == batch["labels"].tolist()
    assert ready["target"].dtype == jnp.int32


def all_bytes():
    """Returns uint8[256, 1, 1, 3], every byte in every channel."""
    return np.arange(256, dtype=np.uint8).repeat(3).reshape(256, 1, 1, 3)


def bits(x):
    return np.asarray(x).view(np.uint32).tolist()


def test_normalising_on_the_host_has_the_bits_of_numpy():
    """A workdir's network; the stages of a pipeline call the same function. NumPy divides."""
    mean, std, images = np.float32(MEAN), np.float32(STD) * 0.7, all_bytes()
    expected = (images.astype(np.float32) / 255 - mean) / std
    assert expected.dtype == np.float32
    apply = lambda params, state, x, train, key: (x, state)
    trained = workdir.Trained(apply, {}, {}, (), (1, 1, 3), mean, std, 0, {})
    assert bits(trained(images)) == bits(prepare.normalise(images, mean, std)) == bits(expected)


def test_normalising_in_a_step_has_the_bits_of_the_traced_formula():
    """In training and evaluation: XLA multiplies by the reciprocals of constants."""
    mean, std, images = np.float32(MEAN), np.float32(STD) * 0.7, all_bytes()
    ready = prepare.make_prepare(mean=mean, std=std, num_classes=4)
    batch = {"inputs": images, "labels": np.zeros(256, np.int32)}

    @jax.jit
    def traced(batch):
        return (batch["inputs"].astype(jnp.float32) / 255 - mean) / std

    assert bits(jax.jit(lambda batch: ready(batch, None))(batch)["inputs"]) == bits(traced(batch))
    plainly = (jnp.asarray(images).astype(jnp.float32) / 255 - mean) / std
    assert bits(ready(batch, None)["inputs"]) == bits(plainly)


def test_evaluation_is_not_augmented(split):
    batch = next(batches.eval_batches(split, batch_size=8))
    plain, same = make()(batch, None), make(SEVERAL)(batch, None)
    np.testing.assert_array_equal(plain["inputs"], same["inputs"])
    np.testing.assert_array_equal(same["target"], batch["labels"])
    np.testing.assert_array_equal(same["mask"], batch["mask"])


def test_images_do_not_depend_on_the_number_of_hosts(split):
    whole = several()(batch_of(split), KEY)
    shards = [several()(batch_of(split, shard=(h, 4)), KEY) for h in range(4)]
    for entry in ("inputs", "target"):
        joined = np.concatenate([shard[entry] for shard in shards])
        # another batch size may be compiled to another order of rounding
        np.testing.assert_allclose(joined, whole[entry], atol=3e-5, err_msg=entry)


def test_every_example_and_every_key_is_augmented_differently(split):
    same = Split(np.repeat(split.images[:1], 20, 0), split.labels)
    batch = batch_of(same, partners=False)
    run = jax.jit(make([("affine", {})]))
    first, second = (run(batch, jax.random.key(k))["inputs"] for k in (0, 1))
    distinct = {np.asarray(image).tobytes() for image in [*first, *second]}
    assert len(distinct) == 16


def test_a_later_augmentation_does_not_change_an_earlier_one(split):
    batch = batch_of(split)
    alone = make([("shift", {"pixels": 2})])(batch, KEY)["inputs"]
    both = make([("shift", {"pixels": 2}), ("noise", {"std": 0.0})])(batch, KEY)["inputs"]
    np.testing.assert_allclose(alone, both, atol=1e-6)


def test_mixed_targets_are_probabilities_of_own_and_partner(split):
    batch = batch_of(split)
    target = np.asarray(several()(batch, KEY)["target"])
    np.testing.assert_allclose(target.sum(1), 1, atol=1e-6)
    for row, own, partner in zip(target, batch["labels"], batch["partner_labels"], strict=True):
        assert set(np.flatnonzero(row)) <= {own, partner}


def test_the_partner_is_augmented_too(split):
    # a partner that cutout covers whole adds nothing: what is left is the share of the own image
    batch = batch_of(split) | {"inputs": np.full((8, 6, 5, 3), 255, np.uint8)}
    cover = [("cutout", {"size": 40}), ("mixup", {"alpha": 1.0})]
    ready = jax.jit(make(cover))(batch, KEY)
    np.testing.assert_allclose(ready["inputs"] * STD + MEAN, 0, atol=1e-6)


def test_every_augmentation_keeps_shape_and_type(split):
    every = [(name, {}) for name in augment.AUGMENTATIONS if name not in augment.TOKENS]
    ready = jax.eval_shape(make(every), batch_of(split), KEY)
    assert (ready["inputs"].shape, ready["inputs"].dtype) == ((8, 6, 5, 3), jnp.float32)
    assert (ready["target"].shape, ready["target"].dtype) == ((8, 4), jnp.float32)


def test_the_input_is_left_alone(split):
    batch = batch_of(split)
    before = {name: value.copy() for name, value in batch.items()}
    ready = make([("flip", {})])(batch, KEY)  # not jitted: jit would copy the dict
    assert batch.keys() == before.keys()
    assert all((batch[name] == before[name]).all() for name in before)
    assert sorted(ready) == ["inputs", "labels", "position", "target"]


def test_mixing_without_partners_says_what_to_do(split):
    with pytest.raises(ConfigError, match=r"partners=True"):
        make([("mixup", {})])(batch_of(split, partners=False), KEY)


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'cutout'"):
        make([("cutuot", {})])
    with pytest.raises(ConfigError, match="unknown option of augmentation 'affine' 'rotat'; did y"):
        make([("affine", {"rotat": 3})])
