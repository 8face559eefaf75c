"""Tests of the table of models: sizes against the papers, the interface, options."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hcjax import models, trees
from hcjax.errors import ConfigError
from tests.draws import normal

SMALL, LARGE, SOUND = (32, 32, 3), (224, 224, 3), (8000,)
# The papers' counts; of AlexNet Caffe's, of NIN the authors' Caffe model's, of lenet5_1998 and
# alexnet32 the sum of the stated variant, written out in tests below.
COUNTS = [
    ("seed_cnn", 10, (28, 28, 1), 54_410),
    ("mnist_cnn", 10, (28, 28, 1), 54_410),
    ("fast_cnn", 10, (28, 28, 1), 57_018),
    ("lenet_300_100", 10, (28, 28, 1), 266_610),
    ("lenet5", 10, (28, 28, 1), 431_080),
    ("lenet5_1998", 10, (28, 28, 1), 61_706),
    ("alexnet", 1000, LARGE, 60_965_224),
    ("alexnet", 1000, (227, 227, 3), 60_965_224),
    ("alexnet32", 10, SMALL, 7_506_762),
    ("nin", 10, SMALL, 966_986),
    ("vgg", 10, SMALL, 1_739_210),
    ("resnet20", 10, SMALL, 269_722),
    ("resnet32", 10, SMALL, 464_154),
    ("resnet44", 10, SMALL, 658_586),
    ("resnet56", 10, SMALL, 853_018),
    ("resnet110", 10, SMALL, 1_727_962),
    ("resnet18", 1000, LARGE, 11_689_512),
    ("resnet50", 1000, LARGE, 25_557_032),
    ("unet", 2, (40, 40, 3), 94_426),
    ("sound_cnn", 10, SOUND, 23_994),
]
TINY = {
    "seed_cnn_tiny": (8, 8, 1),
    "fast_cnn_tiny": (16, 16, 1),
    "mlp_tiny": (8, 8, 1),
    "lenet5_tiny": (16, 16, 1),
    "alexnet_tiny": (8, 8, 3),
    "nin_tiny": (8, 8, 3),
    "vgg_tiny": (8, 8, 3),
    "resnet_tiny": (8, 8, 3),
    "resnet50_tiny": (32, 32, 3),
    "unet_tiny": (8, 8, 3),
}
KEY = jax.random.key(0)


def shapes(network, input_shape, *, batch=2, train=True, dtype=jnp.float32):
    """Returns the shapes of (params, state, logits, new state), without computing anything."""
    params, state = jax.eval_shape(network.init, KEY)
    images = jax.ShapeDtypeStruct((batch, *input_shape), dtype)
    apply = functools.partial(network.apply, train=train)
    return params, state, *jax.eval_shape(apply, params, state, images, key=KEY)


@pytest.mark.parametrize("name, classes, shape, count", COUNTS)
def test_parameter_counts(name, classes, shape, count):
    network = models.create(name, num_classes=classes, input_shape=shape)
    params, _ = jax.eval_shape(network.init, KEY)
    assert trees.num_parameters(params) == count


def test_lenet5_1998_is_the_sum_of_its_layers():
    convs = (25 * 1 * 6 + 6) + (25 * 6 * 16 + 16)
    assert convs + (400 * 120 + 120) + (120 * 84 + 84) + (84 * 10 + 10) == 61_706


def test_alexnet32_is_the_sum_of_its_layers():
    widths = [3, 64, 192, 384, 256, 256]
    convs = sum(9 * a * b + b for a, b in itertools.pairwise(widths))
    units = [4 * 4 * 256, 1024, 1024, 10]
    dense = sum(a * b + b for a, b in itertools.pairwise(units))
    assert convs + dense == 7_506_762


def test_alexnet_without_groups_has_the_larger_kernels():
    network = models.create("alexnet", num_classes=1000, input_shape=LARGE, groups=1)
    params, _ = jax.eval_shape(network.init, KEY)
    more = 25 * 48 * 256 + 9 * 192 * 384 + 9 * 192 * 256
    assert trees.num_parameters(params) == 60_965_224 + more == 62_378_344


@pytest.mark.parametrize("name", [n for n in models.MODELS if not n.startswith("text")])
def test_every_model_keeps_the_interface(name):
    shape = LARGE if name in ("alexnet", "resnet18", "resnet50") else SMALL
    shape = SOUND if name.startswith("sound_cnn") else shape
    network = models.create(name, num_classes=7, input_shape=shape)
    params, state, logits, new_state = shapes(network, shape, batch=3)
    each = shape[:2] if name.startswith("unet") else ()  # one of every pixel
    assert (logits.shape, logits.dtype) == ((3, *each, 7), jnp.float32)
    assert new_state == state
    assert {leaf.dtype for leaf in jax.tree.leaves((params, state))} == {jnp.dtype("float32")}
    has_norm = name.startswith(("resnet", "fast_cnn", "vgg", "unet", "sound_cnn"))
    assert bool(jax.tree.leaves(state)) == has_norm


@pytest.mark.parametrize("name", TINY)
def test_bfloat16_keeps_parameters_statistics_and_logits_in_float32(name):
    network = models.create(name, input_shape=TINY[name], dtype="bfloat16")
    params, state, logits, new_state = shapes(network, TINY[name])
    leaves = jax.tree.leaves((params, state, logits, new_state))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}
    images = jax.ShapeDtypeStruct((1, *TINY[name]), jnp.float32)
    eqns = jax.make_jaxpr(network.apply)(params, state, images).eqns
    products = [e for e in eqns if e.primitive.name in ("conv_general_dilated", "dot_general")]
    kernels = sum(trees.kernels(*item) for item in trees.paths(params))
    expected = ["bfloat16"] * kernels  # one product per kernel, all in bfloat16 …
    if name != "nin_tiny":
        expected[-1] = "float32"  # … but the dense layer that gives the logits
    assert [str(e.outvars[0].aval.dtype) for e in products] == expected


@pytest.mark.parametrize("name", ["lenet5_tiny", "resnet_tiny"])
def test_bfloat16_is_near_float32(name):
    shape = TINY[name]
    images = normal(4, *shape)
    params, state = models.create(name, input_shape=shape).init(KEY)
    full, half = (
        jax.jit(models.inference(models.create(name, input_shape=shape, dtype=d).apply, state))(
            params, images
        )
        for d in ("float32", "bfloat16")
    )
    scale = float(jnp.abs(full).max())
    assert 0 < float(jnp.abs(full - half).max()) < 0.03 * scale  # a few bfloat16 roundings, 2^-8


@pytest.mark.parametrize("name", ["seed_cnn_tiny", "alexnet_tiny", "nin_tiny", "vgg_tiny"])
def test_dropout_needs_a_key_in_training_only_and_follows_it(name):
    shape = TINY[name]
    network = models.create(name, input_shape=shape, dropout=0.5)
    params, state = network.init(KEY)
    images = normal(4, *shape)
    apply = jax.jit(network.apply, static_argnames="train")
    one, again, other = (
        apply(params, state, images, train=True, key=jax.random.key(seed))[0] for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, again)
    assert not np.allclose(one, other)
    with pytest.raises(ValueError, match="needs key= in training"):
        network.apply(params, state, images, train=True)


def test_init_follows_its_key():
    network = models.create("lenet5_tiny")
    first, again, other = (
        trees.sha256(network.init(jax.random.key(seed))[0]) for seed in (0, 0, 1)
    )
    assert first == again != other


def test_prelu_adds_one_slope_per_channel_and_hidden_unit():
    network = models.create("lenet5", activation="prelu")
    params, _ = jax.eval_shape(network.init, KEY)
    slopes = {path: leaf.shape for path, leaf in trees.paths(params) if path.endswith("slope")}
    assert slopes == {"conv1/slope": (20,), "conv2/slope": (50,), "dense1/slope": (500,)}
    params, _ = jax.eval_shape(models.create("resnet_tiny", activation="prelu").init, KEY)
    slopes = [path for path, _ in trees.paths(params) if path.endswith("slope")]
    assert len(slopes) == 7 and "stage1_block1/norm2/slope" in slopes


def test_inference_binds_the_state_and_changes_nothing():
    network = models.create("resnet_tiny", input_shape=(8, 8, 3))
    params, state = network.init(KEY)
    state = jax.tree.map(lambda leaf: leaf + 0.5, state)
    images = jax.random.normal(KEY, (2, 8, 8, 3))
    logits, after = jax.jit(network.apply)(params, state, images)
    jax.tree.map(np.testing.assert_array_equal, after, state)
    predict = jax.jit(models.inference(network.apply, state))
    np.testing.assert_array_equal(predict(params, images), logits)


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("lenet6", {}, "unknown model 'lenet6'; did you mean 'lenet5'"),
        ("lenet5", {"dropuot": 0.5}, "option of model 'lenet5' 'dropuot'; did you mean 'dropout'"),
        ("resnet20", {"depth": 32}, "option of model 'resnet20' 'depth'"),
        ("resnet18", {"stride_in": "1x1"}, "option of model 'resnet18' 'stride_in'"),
        ("resnet50", {"stride_in": "5x5"}, "unknown stride_in '5x5'"),
        ("lenet5", {"activation": "gelu"}, "unknown activation 'gelu'"),
        ("lenet5", {"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ("lenet5", {"dtype": "float16"}, "dtype must be 'float32' or 'bfloat16', got 'float16'"),
        ("lenet5", {"num_classes": 0}, "num_classes must be >= 1, got 0"),
        ("lenet5", {"input_shape": (28, 28)}, r"input_shape must be three sizes"),
        ("lenet5", {"input_shape": (12, 28, 1)}, "12×28 images are too small"),
        ("alexnet", {"input_shape": (32, 32, 3)}, "32×32 images are too small"),
        ("lenet5_1998", {"pool": "mean"}, "unknown pool 'mean'"),
        ("vgg", {"filters": (8, 8)}, "filters must be channels for each block"),
        (
            "unet",
            {"input_shape": (28, 28, 1)},
            "28×28 images cannot be halved 3 times",
        ),
        ("unet", {"filters": (8,)}, "filters must be counts >= 1 of at least two levels"),
        ("resnet20", {"norm_momentum": 1.0}, r"norm_momentum must be in \[0, 1\), got 1.0"),
    ],
)
def test_wrong_arguments_are_refused_at_construction(name, options, message):
    with pytest.raises(ConfigError, match=message):
        models.create(name, **options)


def test_options_are_what_a_model_reads_beside_the_common_three():
    assert models.options("resnet20").keys() == {
        "width", "activation", "zero_init", "axis_name", "norm_momentum"
    }  # fmt: skip
