"""Losses on activations by `fit` itself: each is learned, in any layout, with other widths too."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

import hcjax
from hcjax import distill
from hcjax.errors import ConfigError
from tests.draws import normal


def conv(x, kernel, layout):
    return lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=layout)


def written(params, images):
    x = jax.nn.relu(conv(images, params["conv"]["kernel"], ("NHWC", "HWIO", "NHWC")))
    return x.mean((1, 2)) @ params["dense"]["kernel"]


def model(channels, seed, images):
    params = {
        "conv": {"kernel": 0.5 * normal(3, 3, 1, channels, seed=(seed, 0))},
        "dense": {"kernel": normal(channels, 10, seed=(seed, 1))},
    }
    return hcjax.trace(written, params, images)


def tell(teacher, names=("conv",)):
    return partial(distill.features(teacher, names), teacher.params)


@pytest.fixture(scope="module")
def dataset():
    return hcjax.data.load("mnist", limit=256, validation=64)


@pytest.fixture(scope="module")
def images(dataset):
    return (jnp.asarray(dataset.train.images[:64], jnp.float32) / 255 - dataset.mean) / dataset.std


def fitted(apply, params, dataset, loss, teacher, **changes):
    given = {"steps": 40, "batch_size": 32, "quiet": True, "accelerate": False} | changes
    return hcjax.fit(
        apply, params, dataset, loss=loss, tx=optax.adam(0.02), key=jax.random.key(3),
        teacher=teacher, **given,
    )  # fmt: skip


@pytest.mark.parametrize(
    "by", ["hint", "attention", pytest.param("relational", marks=pytest.mark.slow)]
)
def test_fit_brings_a_students_activations_near_its_teachers(by, dataset, images):
    student, teacher = model(6, 0, images[:1]), model(9, 1, images[:1])
    apply, params = distill.features(student, ["conv"]), student.params
    if by == "hint":  # the only one that needs as many channels
        apply, params = distill.projected(
            apply, params, images[:1], {"conv": 9}, key=jax.random.key(2)
        )
    told = tell(teacher)

    def far(params):
        found = apply(params, images)[1]["conv"]
        return float(getattr(distill, by)(found, told(images)[1]["conv"]).mean())

    loss = distill.guided(lambda logits, target: 0.0 * logits[:, 0], {"conv": "conv"}, by=by)
    done = fitted(apply, params, dataset, loss, told)
    assert far(done.params) < 0.6 * far(params)
    assert 0 <= done.history[-1]["accuracy"] <= 1  # validation reads the logits alone
    network = done.params["network"] if by == "hint" else done.params
    assert jax.tree.map(jnp.shape, network) == jax.tree.map(jnp.shape, student.params)


def test_the_loss_is_what_is_taught_plus_the_weighed_distance_of_each_pair():
    own, its = ({"a": jnp.full((2, 3), x), "b": jnp.full((2, 3), 2 * x)} for x in (1.0, 0.0))
    logits, told, labels = jnp.ones((2, 4)), jnp.arange(8.0).reshape(2, 4), jnp.array([1, 2])
    taught = distill.taught(hcjax.losses.cross_entropy, weight=0.7)
    loss = distill.guided(taught, {"a": "a", "b": "b"}, weight=0.5)
    found = loss((logits, own), (labels, (told, its)))
    np.testing.assert_allclose(found, taught(logits, (labels, told)) + 0.5 * (1 + 4), rtol=1e-6)
    double = distill.guided(taught, {"a": "b"}, by=lambda s, t: (s - 3 * t).sum(-1))
    found = double((logits, own), (labels, (told, its)))
    np.testing.assert_allclose(found, taught(logits, (labels, told)) + 3, rtol=1e-6)


@pytest.mark.parametrize("mixed", [False, True])
def test_decoupled_is_one_of_the_losses_that_teach(mixed):
    s, t = (jnp.asarray(np.random.default_rng(i).normal(size=(4, 10)), jnp.float32) for i in (0, 1))
    labels = jnp.array([1, 2, 3, 9])
    target = 0.9 * jax.nn.one_hot(labels, 10) + 0.01 if mixed else labels
    loss = distill.taught(hcjax.losses.cross_entropy, weight=0.3, temperature=2.0, by="decoupled")
    expected = 0.7 * hcjax.losses.cross_entropy(s, target)
    expected += 0.3 * distill.decoupled(s, t, labels, temperature=2.0)
    np.testing.assert_allclose(loss(s, (target, t)), expected, rtol=1e-6)


def test_channels_come_last_in_a_network_that_has_them_first(images):
    kernel = normal(3, 3, 1, 5)

    def first(params, images):
        kernel = params["conv"]["kernel"].transpose(3, 2, 0, 1)
        x = jax.nn.relu(conv(images.transpose(0, 3, 1, 2), kernel, ("NCHW", "OIHW", "NCHW")))
        return x.mean((2, 3)) @ params["dense"]["kernel"]

    params = {"conv": {"kernel": kernel}, "dense": {"kernel": jnp.ones((5, 10))}}
    found = []
    for apply in (written, first):
        net = hcjax.trace(apply, params, images[:1])
        found.append(distill.features(net, ["conv"])(net.params, images)[1]["conv"])
    assert found[1].shape == (64, 14, 14, 5)
    np.testing.assert_allclose(found[1], found[0], rtol=1e-5, atol=1e-5)


def test_activations_are_not_kept_and_names_are_checked(dataset, images, tmp_path):
    net = model(4, 0, images[:1])
    apply, loss = distill.features(net, ["conv"]), hcjax.losses.cross_entropy
    guided = distill.guided(distill.taught(loss), {"conv": "conv"})
    with pytest.raises(ConfigError, match="logits, and this one returns more"):
        path = tmp_path / "logits"
        fitted(apply, net.params, dataset, guided, tell(net), teacher_logits=path)
    assert not list(tmp_path.iterdir())
    for layers, message in (
        ({"convv": "conv"}, "did you mean 'conv'.*ask `features`"),
        ({"conv": "dense"}, "activation.*'dense'"),
    ):
        guided = distill.guided(distill.taught(loss), layers)
        with pytest.raises(ConfigError, match=message):
            fitted(apply, net.params, dataset, guided, tell(net))
    for call in (
        lambda: distill.guided(loss, {}),
        lambda: distill.guided(loss, {"conv": "conv"}, weight=-1.0),
        lambda: distill.guided(loss, {"conv": "conv"}, by="hnt"),
        lambda: distill.taught(loss, by="dkd"),
        lambda: distill.projected(apply, net.params, images, {"con": 3}, key=jax.random.key(0)),
    ):
        with pytest.raises(ConfigError):
            call()
