"""The whole chain: trace, fold, calibrate, fake_quantize, int8, pack, unpack: one network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hcjax
from tests.draws import normal
from tests.graph import reference
from tests.graph.networks import FROZEN, NETWORKS, logits, ours, randomized

# narrow where a file of millions of weights takes a minute: the ops are the same
OURS = {
    "lenet_300_100": ours("lenet_300_100", (28, 28, 1)),
    "lenet5_1998": ours("lenet5_1998", (28, 28, 1)),
    "fast_cnn": ours("fast_cnn", (28, 28, 1)),
    "nin": ours("nin", (32, 32, 3), filters=((24, 20, 12), (24, 24, 24), (24, 24))),
    "vgg": ours("vgg", (32, 32, 3), filters=((16, 16), (32, 32), (64, 64, 64))),
}
EVERY = NETWORKS | OURS


def chain(make, count=4, frozen=""):
    """Returns what the chain makes of a network up to integers, and images for it."""
    apply, params, image = make()
    images = normal(count, *image.shape[1:], seed=1)
    model = hcjax.fold(hcjax.trace(apply, params, image, frozen=frozen))
    fake = hcjax.fake_quantize(model, hcjax.calibrate(model, images, method="minmax"))
    return model, fake, hcjax.int8(fake), images


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_every_link_of_the_chain_gives_the_same_logits(name):
    model, fake, small, images = chain(EVERY[name], frozen=FROZEN.get(name, ""))
    apply, params, _ = EVERY[name]()
    true, got = np.asarray(jax.jit(apply)(params, images)), logits(small, images)
    np.testing.assert_allclose(logits(model, images), true, rtol=0, atol=1e-4 * np.abs(true).max())
    assert np.unique(got).size > 10 and np.abs(got - true).max() < 0.05 * np.ptp(true)
    np.testing.assert_array_equal(got, logits(fake, images))
    np.testing.assert_array_equal(got, reference.logits(small, images))
    np.testing.assert_array_equal(got, logits(hcjax.unpack(hcjax.pack(small)), images))
    assert small.floats == ()


@pytest.mark.slow
def test_all_test_images_of_mnist_have_the_logits_of_the_numpy_reference():
    data = hcjax.data.load("mnist", validation=0)
    network = hcjax.models.create("lenet5")
    params, state = network.init(jax.random.key(0))
    images = ((data.test.images / np.float32(255) - data.mean) / data.std).astype(np.float32)
    model = hcjax.trace(hcjax.inference(network.apply, state), params, images[:1])
    small = hcjax.int8(model, hcjax.calibrate(model, images[:256]))
    apply = jax.jit(small.apply)
    assert len(images) == 10_000 and small.floats == ()
    for i in range(0, len(images), 500):
        part = images[i : i + 500]
        np.testing.assert_array_equal(apply(small.params, part), reference.logits(small, part))


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="no GPU")
@pytest.mark.parametrize("name", ["linen", "lenet5", "resnet_tiny"])
def test_a_gpu_gives_the_logits_of_the_numpy_reference(name):
    _, _, small, images = chain(NETWORKS[name], 16, FROZEN.get(name, ""))
    np.testing.assert_array_equal(logits(small, images), reference.logits(small, images))


def attention(p, x):
    q, k, v = (x @ p[name] for name in "qkv")
    weights = jax.nn.softmax(jnp.einsum("ntc,nsc->nts", q, k) / 2.2, -1)
    return (x + jnp.einsum("nts,nsc->ntc", weights, v)).mean(1) @ p["o"]


SOFT = {
    "attention": attention,
    "log_softmax": lambda p, x: jax.nn.log_softmax(x.mean(1) @ p["q"] @ p["o"]),
    "softmax": lambda p, x: jax.nn.softmax(x.mean(1) @ p["q"] @ p["o"]),
}


@pytest.mark.parametrize("name", SOFT)
def test_what_ends_in_a_softmax_has_a_file(name):
    shapes = {"q": (5, 5), "k": (5, 5), "v": (5, 5), "o": (5, 4)}
    params = randomized({k: jnp.zeros(shape) - 0.1 for k, shape in shapes.items()})
    x = normal(8, 6, 5)
    model = hcjax.fold(hcjax.trace(SOFT[name], params, x[:1]))
    small = hcjax.int8(model, hcjax.calibrate(model, x))
    assert [line.split()[0] for line in small.floats] == ["div"] * (name != "log_softmax")
    for m in (model, small):
        back = hcjax.unpack(hcjax.pack(m))
        np.testing.assert_array_equal(logits(back, x), logits(m, x))
    if not small.floats:
        np.testing.assert_array_equal(logits(small, x), reference.logits(small, x))


def test_a_stopped_gradient_stays_stopped_in_a_file():
    x = jnp.ones((1, 3))
    model = hcjax.trace(lambda p, x: x * p * jax.lax.stop_gradient(x * p), jnp.full(3, 2.0), x)
    for m in (model, hcjax.unpack(hcjax.pack(model))):
        gradient = jax.jit(jax.grad(lambda p, m=m: m.apply(p, x).sum()))(m.params)
        assert jax.tree.leaves(gradient)[0].ravel().tolist() == [2, 2, 2]
