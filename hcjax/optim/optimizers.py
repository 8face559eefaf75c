"""Optimisers by name; each function takes only the keywords it uses.

Weight decay is decoupled (multiplied by the learning rate, kept out of the moments) and acts on
the leaves where `decay_select(path, leaf)` is true, kernels by default.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import optax

from hcjax import trees
from hcjax.errors import ConfigError
from hcjax.optim.schedules import Schedule, check

Rate = float | Schedule


def sgd(
    *,
    learning_rate: Rate,
    momentum: float = 0.9,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    decay_select: trees.Select = trees.kernels,
) -> optax.GradientTransformation:
    """Stochastic gradient descent: v = momentum · v + g,  w -= rate · (v + decay · w).

    With Nesterov, g + momentum · v replaces v. With decoupled `weight_decay` this is SGDW
    (Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2017, arXiv:1711.05101).
    """
    _check_unit(momentum=momentum)
    return optax.chain(
        optax.trace(decay=momentum, nesterov=nesterov) if momentum else optax.identity(),
        optax.add_decayed_weights(weight_decay, _mask(weight_decay, decay_select)),
        optax.scale_by_learning_rate(learning_rate),
    )


def adam(
    *, learning_rate: Rate, b1: float = 0.9, b2: float = 0.999, epsilon: float = 1e-8
) -> optax.GradientTransformation:
    """Adam (Kingma and Ba, 2014, arXiv:1412.6980), without weight decay: see adamw."""
    _check_unit(b1=b1, b2=b2)
    check("epsilon", epsilon, epsilon > 0, "> 0")
    return optax.adam(learning_rate, b1=b1, b2=b2, eps=epsilon)


def adamw(
    *,
    learning_rate: Rate,
    b1: float = 0.9,
    b2: float = 0.999,
    epsilon: float = 1e-8,
    weight_decay: float = 1e-2,
    decay_select: trees.Select = trees.kernels,
) -> optax.GradientTransformation:
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2017, arXiv:1711.05101)."""
    _check_unit(b1=b1, b2=b2)
    check("epsilon", epsilon, epsilon > 0, "> 0")
    mask = _mask(weight_decay, decay_select)
    return optax.adamw(
        learning_rate, b1=b1, b2=b2, eps=epsilon, weight_decay=weight_decay, mask=mask
    )


def lamb(
    *,
    learning_rate: Rate,
    b1: float = 0.9,
    b2: float = 0.999,
    epsilon: float = 1e-6,
    weight_decay: float = 1e-2,
    decay_select: trees.Select = trees.kernels,
) -> optax.GradientTransformation:
    """LAMB, Adam scaled per layer for large batches (You et al., 2019, arXiv:1904.00962).

    Biases and norms get the trust ratio as well.
    """
    _check_unit(b1=b1, b2=b2)
    check("epsilon", epsilon, epsilon > 0, "> 0")
    mask = _mask(weight_decay, decay_select)
    return optax.lamb(
        learning_rate, b1=b1, b2=b2, eps=epsilon, weight_decay=weight_decay, mask=mask
    )


def lion(
    *,
    learning_rate: Rate,
    b1: float = 0.9,
    b2: float = 0.99,
    weight_decay: float = 1e-3,
    decay_select: trees.Select = trees.kernels,
) -> optax.GradientTransformation:
    """Lion, the sign of an interpolated momentum (Chen et al., 2023, arXiv:2302.06675).

    Needs a learning rate 3 to 10 times smaller than AdamW's.
    """
    _check_unit(b1=b1, b2=b2)
    mask = _mask(weight_decay, decay_select)
    return optax.lion(learning_rate, b1=b1, b2=b2, weight_decay=weight_decay, mask=mask)


def muon(
    *,
    learning_rate: Rate,
    momentum: float = 0.95,
    nesterov: bool = True,
    rms: float = 0.2,
    weight_decay: float = 0.0,
    decay_select: trees.Select = trees.kernels,
) -> optax.GradientTransformation:
    """Muon: momentum whose matrices are orthogonalised by Newton-Schulz iterations.

    Dense kernels are taken as [I, O], convolution kernels flattened to [H·W·I, O]; everything
    else (biases, norms, slopes) follows Adam with Nesterov momentum and the same learning rate.
    Updates are scaled to a root mean square of `rms` × learning rate, about AdamW's, so that
    the same learning rates work (Liu et al., "Muon is Scalable for LLM Training", 2025,
    arXiv:2502.16982, section 2.2). Jordan et al., "Muon", 2024, kellerjordan.github.io/posts/muon;
    deviation: the last layer is orthogonalised too.
    """
    if not hasattr(optax.contrib, "muon"):
        raise ConfigError(f"muon needs a newer optax than {optax.__version__}; upgrade optax")
    _check_unit(momentum=momentum)
    check("rms", rms, rms > 0, "> 0")
    return optax.contrib.muon(
        learning_rate,
        beta=momentum,
        nesterov=nesterov,
        consistent_rms=rms,
        weight_decay=weight_decay,
        weight_decay_mask=_mask(weight_decay, decay_select),
        muon_weight_dimension_numbers=_muon_dimensions,
    )


OPTIMIZERS = {"sgd": sgd, "adam": adam, "adamw": adamw, "lamb": lamb, "lion": lion, "muon": muon}


def _mask(weight_decay: float, select: trees.Select) -> Callable[[Any], Any] | None:
    """Makes optax's mask function, params -> tree of bools."""
    return (lambda params: trees.mask(params, select)) if weight_decay else None


def _muon_dimensions(params: Any) -> Any:
    """Says how each kernel is reshaped to a matrix; None for leaves that are not kernels."""

    def numbers(leaf):
        axes = tuple(range(leaf.ndim - 1))
        return optax.contrib.MuonDimensionNumbers(axes, (leaf.ndim - 1,)) if axes else None

    return jax.tree.map(numbers, params)


def _check_unit(**values: float) -> None:
    """Raises ConfigError unless each value is in [0, 1)."""
    for name, value in values.items():
        check(name, value, 0 <= value < 1, "in [0, 1)")
