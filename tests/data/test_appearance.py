import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from hcjax.data.augment import appearance
from hcjax.errors import ConfigError

KEYS = jax.random.split(jax.random.key(0), 300)
ONES = jnp.ones((8, 8, 3))


def test_cutout_covers_one_square():
    covered = np.asarray(1 - jax.jit(jax.vmap(lambda k: appearance.cutout(k, ONES, size=4)))(KEYS))[
        ..., 0
    ]
    area = covered.sum((1, 2))
    assert area.max() == 16  # whole squares inside
    assert area.min() == 4  # at a corner, a quarter
    box = covered.any(1).sum(1) * covered.any(2).sum(1)
    np.testing.assert_array_equal(box, area)  # a full rectangle
    assert (covered.mean(0) > 0).all()  # every pixel can be covered


def test_noise_has_its_standard_deviation():
    noisy = jax.vmap(lambda k: appearance.noise(k, ONES / 2, std=0.1))(KEYS)
    assert abs(float(noisy.std()) - 0.1) < 0.002  # sd 0.0003
    assert abs(float(noisy.mean()) - 0.5) < 0.002


def test_noise_stays_in_range():
    noisy = appearance.noise(KEYS[0], ONES, std=1.0)
    assert float(noisy.min()) >= 0
    assert float(noisy.max()) <= 1


def test_brightness_alone_scales_all_pixels_alike():
    image = jnp.linspace(0.1, 0.7, 12).reshape(2, 2, 3)
    only = {"contrast": 0.0, "saturation": 0.0, "brightness": 0.3}
    ratio = jax.jit(jax.vmap(lambda k: appearance.color(k, image, **only)))(KEYS) / image
    np.testing.assert_allclose(ratio, np.broadcast_to(ratio[:, :1, :1, :1], ratio.shape), rtol=1e-5)
    assert 1.27 < float(ratio.max()) <= 1.301
    assert 0.699 <= float(ratio.min()) < 0.73


def test_contrast_alone_keeps_the_mean():
    image = jnp.linspace(0.3, 0.7, 12).reshape(2, 2, 3)
    only = {"contrast": 0.3, "saturation": 0.0, "brightness": 0.0}
    changed = jax.jit(jax.vmap(lambda k: appearance.color(k, image, **only)))(KEYS)
    np.testing.assert_allclose(changed.mean((1, 2, 3)), 0.5, rtol=1e-5)
    spread = changed.std((1, 2, 3)) / image.std()
    assert 0.69 < float(spread.min()) < 0.75
    assert 1.25 < float(spread.max()) < 1.31


def test_saturation_does_nothing_to_grey():
    image = jnp.linspace(0.1, 0.7, 4).reshape(2, 2, 1)
    only = {"contrast": 0.0, "saturation": 0.9, "brightness": 0.0}
    np.testing.assert_allclose(appearance.color(KEYS[0], image, **only), image, rtol=1e-6)


@functools.cache
def mix(function, alpha):
    """Share of the own image in the pixels, and in the target, over the keys."""
    one, two = jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0])
    run = jax.jit(jax.vmap(lambda k: function(k, ONES, one, 0 * ONES, two, alpha=alpha)))
    images, targets = run(KEYS)
    return np.asarray(images), np.asarray(targets)


@pytest.mark.parametrize("function", [appearance.mixup, appearance.cutmix])
def test_targets_are_mixed_as_the_pixels_are(function):
    images, targets = mix(function, 1.0)
    np.testing.assert_allclose(images.mean((1, 2, 3)), targets[:, 0], atol=1e-6)
    np.testing.assert_allclose(targets.sum(1), 1, atol=1e-6)


@pytest.mark.parametrize("alpha", [0.4, 1.0, 8.0])
def test_mixup_draws_from_its_beta_distribution(alpha):
    one, two = jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0])
    pixel = jnp.ones((1, 1, 1))
    run = jax.jit(jax.vmap(lambda k: appearance.mixup(k, pixel, one, pixel, two, alpha=alpha)[1]))
    share = np.asarray(run(jax.random.split(jax.random.key(1), 4000)))[:, 0].astype(float)
    # Kolmogorov-Smirnov distance of 4,000 draws: above 0.031 once in 1,000 seeds
    assert stats.ks_1samp(share, stats.beta(alpha, alpha).cdf).statistic < 0.031


def test_the_smallest_alpha_takes_one_or_the_other():
    _, targets = mix(appearance.mixup, 1e-3)
    assert np.isfinite(targets).all()
    assert (targets.max(1) > 0.99).mean() > 0.95
    assert 0.35 < targets[:, 0].mean() < 0.65  # sd 0.029


def test_cutmix_pastes_one_box():
    images, _ = mix(appearance.cutmix, 1.0)
    assert set(np.unique(images)) == {0.0, 1.0}
    pasted = 1 - images[..., 0]
    box = pasted.any(1).sum(1) * pasted.any(2).sum(1)
    np.testing.assert_array_equal(box, pasted.sum((1, 2)))


def test_strengths_out_of_range_are_refused():
    target = jnp.ones(2)
    with pytest.raises(ConfigError, match="size must be at least 1, got 0"):
        appearance.cutout(KEYS[0], ONES, size=0)
    with pytest.raises(ConfigError, match=r"saturation must be in \[0, 1\], got 2"):
        appearance.color(KEYS[0], ONES, saturation=2)
    with pytest.raises(ConfigError, match="alpha must be at least"):
        appearance.mixup(KEYS[0], ONES, target, ONES, target, alpha=0.0)
