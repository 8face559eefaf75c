"""What cannot be pruned is refused with a message, not misread or pruned in silence."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hcjax
from hcjax.errors import ConfigError
from hcjax.transforms import prune


class Declared(eqx.Module):
    """Leaves in another order than a dict's."""

    stem: jax.Array
    body: jax.Array

    def __call__(self, x):
        return jax.nn.relu(x @ self.stem) @ self.body


def declared():
    rng = np.random.default_rng(0)
    return Declared(*(jnp.asarray(rng.standard_normal((6, 6)), jnp.float32) for _ in range(2)))


def test_scores_of_another_tree_are_refused_although_all_shapes_agree():
    module = declared()
    model = hcjax.trace(lambda m, x: m(x), module, jnp.ones((1, 6)))
    only = eqx.tree_at(lambda m: m.stem, jax.tree.map(jnp.zeros_like, module), jnp.ones((6, 6)))
    assert prune.masks(module, sparsity=0.5, scores=only).stem.all()
    message = r"structure of params, dict of .*\[body, stem\], got Declared of .*\[stem, body\]"
    with pytest.raises(ConfigError, match=message):
        prune.masks(model.params, sparsity=0.5, scores=only)


def test_integers_of_a_quantized_or_shared_network_are_refused():
    images = jax.random.normal(jax.random.key(0), (8, 6))
    model = hcjax.trace(lambda m, x: m(x), declared(), images)
    int8 = hcjax.int8(model, hcjax.calibrate(model, images))
    for params in (int8.params, hcjax.share({"w": jnp.ones((4, 4))}, clusters=1)):
        with pytest.raises(ConfigError, match="holds int8, and only floats are pruned"):
            prune.masks(params, sparsity=0.5)
