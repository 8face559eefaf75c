"""Losses per example, and penalties on parameters.

In: logits with labels or target probabilities; or a parameter tree. Out: float32[N] nats per
example, which the caller weights, sums and divides; or one float32 penalty, which the caller
scales and adds.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from hcjax import trees
from hcjax.core import registry
from hcjax.errors import ConfigError


def cross_entropy(logits: jax.Array, target: jax.Array, *, smoothing: float = 0.0) -> jax.Array:
    """Computes the cross-entropy of each example.

    loss = -sum_k q_k log softmax(logits)_k,  q = (1 - smoothing) · target + smoothing / K.

    Args:
      logits: float[N, K].
      target: int[N] labels 0..K-1, or float[N, K] probabilities (rows sum to 1).
      smoothing: label smoothing, in [0, 1). Static.

    Returns:
      float32[N], nats.

    Raises:
      ValueError: if the shapes do not fit together.
      ConfigError: if `smoothing` is out of range.

    Note:
      Values of `target` are not checked under jit; a label outside 0..K-1 gives loss 0.

    Reference:
      Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", 2015,
      arXiv:1512.00567, section 7 (smoothing).

    Example:
      >>> round(float(cross_entropy(jnp.zeros((1, 4)), jnp.array([2]))[0]), 4)  # log 4
      1.3863
    """
    if not 0 <= smoothing < 1:
        raise ConfigError(f"smoothing must be in [0, 1), got {smoothing}")
    target = _probabilities(logits, target)
    if smoothing:
        target = (1 - smoothing) * target + smoothing / logits.shape[-1]
    return -(target * jax.nn.log_softmax(logits.astype(jnp.float32))).sum(axis=-1)


def focal(logits: jax.Array, target: jax.Array, *, gamma: float = 2.0) -> jax.Array:
    """Computes the focal loss of each example: cross-entropy with less weight on easy examples.

    loss = -sum_k target_k (1 - p_k)^gamma log p_k,  p = softmax(logits).

    Args:
      logits: float[N, K].
      target: int[N] labels 0..K-1, or float[N, K] probabilities.
      gamma: focusing, >= 0; 0 is cross-entropy, 2 the paper's choice. Static.

    Returns:
      float32[N], nats.

    Raises:
      ValueError: if the shapes do not fit together.
      ConfigError: if `gamma` is negative.

    Reference:
      Lin et al., "Focal Loss for Dense Object Detection", 2017, arXiv:1708.02002, eq. 4.
      Deviation: softmax over K classes, and no alpha (use per-example weights).

    Example:
      >>> round(float(focal(jnp.zeros((1, 2)), jnp.array([0]), gamma=1.0)[0]), 4)  # log(2) / 2
      0.3466
    """
    if not gamma >= 0:
        raise ConfigError(f"gamma must be >= 0, got {gamma}")
    if gamma == 0:
        return cross_entropy(logits, target)
    target = _probabilities(logits, target)
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    # expm1 keeps 1 - p accurate near p = 1; the floor keeps the gradient finite for gamma < 1
    rest = jnp.maximum(-jnp.expm1(log_p), 1e-12)
    return -(target * rest**gamma * log_p).sum(axis=-1)


LOSSES = {"cross_entropy": cross_entropy, "focal": focal}


class Robust(NamedTuple):
    """A loss on perturbed inputs, for `fit` wherever a loss goes: see `adversarial` and `trades`.

    Unlike other losses it needs the network, whose inputs it perturbs: `make_loss_fn` calls `run`.

    loss: `(logits, target) -> float32[N]`; with a teacher, `distill.taught` of it. attack:
    `(apply, params, pixels, target, key) -> pixels`, pixels in 0..1. mean, std: of the inputs,
    pixels = inputs · std + mean. beta: of TRADES; None without its divergence.
    """

    loss: Callable
    attack: Callable
    mean: Any = 0.0
    std: Any = 1.0
    beta: float | None = None

    def __call__(self, logits: jax.Array, target: Any) -> jax.Array:
        """Raises ConfigError: logits alone say nothing of inputs nearby."""
        raise ConfigError(
            "an adversarial loss perturbs the inputs, and was called with logits alone: give it "
            "to fit or make_loss_fn as loss="
        )

    def run(
        self,
        network: Callable,
        params: Any,
        state: Any,
        inputs: jax.Array,
        labels: jax.Array,
        target: Any,
        key: jax.Array,
    ) -> tuple[jax.Array, jax.Array, Any]:
        """Computes (outputs that are scored, loss of each example, state) of a training batch.

        Args:
          network: `(params, state, inputs, *, train, key) -> (logits, state)`. The attack sees it
            as it is in inference: no dropout, running statistics.
          inputs: float32[N, ...], normalised. labels: int[N]. target: what the inner loss takes.
        """
        attack_key, key = jax.random.split(key)
        pixels = inputs * self.std + self.mean
        # no derivative of the attack: its loops are no part of what is differentiated
        frozen = lax.stop_gradient((params, state))

        def logits_of(params, pixels):
            return network(
                params, frozen[1], (pixels - self.mean) / self.std, train=False, key=None
            )[0]

        clean = None
        if self.beta is not None:
            clean, state = network(params, state, inputs, train=True, key=key)
            labels = lax.stop_gradient(jax.nn.softmax(logits_of(frozen[0], pixels)))
        moved = self.attack(logits_of, frozen[0], pixels, labels, attack_key)
        moved = (lax.stop_gradient(moved) - self.mean) / self.std
        logits, state = network(params, state, moved, train=True, key=key)
        if self.beta is None:
            return logits, self.loss(logits, target), state
        each = self.loss(clean, target) + self.beta * _divergence(clean, logits)
        return clean, each, state


def adversarial(
    attack: Callable, *, loss: Callable = cross_entropy, mean: Any = 0.0, std: Any = 1.0
) -> Robust:
    """Makes the loss of adversarial training: that of inputs which an attack has moved.

    loss(f(x'), y) with x' = attack(f, params, x, y, key); with the teacher t of `distill.taught`
    the student's logits are those of x' and the teacher's those of x (robust distillation).

    Args:
      attack: `(apply, params, pixels, labels, key) -> pixels`, e.g.
        `partial(attack.pgd, eps=0.3, steps=10)`.
      loss: `(logits, target) -> float32[N]`.
      mean, std: float[C] of the data, `dataset.mean` and `.std`: attacks are of pixels in 0..1,
        networks of normalised ones.

    Returns:
      Robust, for `fit(loss=...)`.

    Reference:
      Madry et al., 2017, arXiv:1706.06083, equation 2.1; Goldblum et al., "Adversarially Robust
      Distillation", 2020, arXiv:1905.09747, equation 5, for the teacher (the clean term is the
      loss inside, weighted by `taught`).

    Example:
      >>> robust = adversarial(lambda apply, params, pixels, labels, key: pixels - 1)
      >>> net = lambda params, state, x, *, train, key: (x * params, state)
      >>> key, x, y = jax.random.key(0), jnp.array([[1.0, 2.0]]), jnp.array([0])
      >>> robust.run(net, jnp.array(2.0), {}, x, y, y, key)[0].tolist()
      [[0.0, 2.0]]
    """
    return Robust(loss, attack, mean, std)


def trades(
    attack: Callable,
    *,
    beta: float = 6.0,
    loss: Callable = cross_entropy,
    mean: Any = 0.0,
    std: Any = 1.0,
) -> Robust:
    """Makes the loss of TRADES: that of the clean input, and how far an attack moves the output.

    loss(f(x), y) + β · KL(softmax f(x) ‖ softmax f(x')), where x' comes of an attack on the same
    divergence: `attack` gets softmax f(x) for its labels, whose cross-entropy is the divergence up
    to a constant.

    Args:
      attack, loss, mean, std: as of `adversarial`; the attack takes float32[N, K] probabilities,
        and starts at random, since the divergence is flat at x.
      beta: β > 0: accuracy for robustness; the paper's 6 on MNIST.

    Returns:
      Robust, for `fit(loss=...)`.

    Raises:
      ConfigError: if beta is not positive.

    Reference:
      Zhang et al., "Theoretically Principled Trade-off between Robustness and Accuracy", 2019,
      arXiv:1901.08573, equation 5. Deviation: the attack sees the network in inference and the
      loss in training mode, as in the authors' code.

    Example:
      >>> robust = trades(lambda apply, params, pixels, labels, key: pixels, beta=1.0)
      >>> net = lambda params, state, x, *, train, key: (x * params, state)
      >>> key, x, y = jax.random.key(0), jnp.array([[0.0, 0.0]]), jnp.array([0])
      >>> robust.run(net, jnp.array(2.0), {}, x, y, y, key)[1].round(4).tolist()
      [0.6930999755859375]
    """
    if not beta > 0:
        raise ConfigError(f"beta must be > 0, got {beta}; without it see `adversarial`")
    return Robust(loss, attack, mean, std, beta)


def create(name: str, **given: Any) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Creates the loss of that name, with its options bound and checked.

    Args:
      name: a key of `LOSSES`.
      **given: that loss's keyword options.

    Returns:
      Function (logits, target) -> float32[N].

    Raises:
      ConfigError: if the name or an option is unknown, or a value is out of range.

    Example:
      >>> create("cross_entropy", smoothing=0.1)(jnp.zeros((3, 4)), jnp.zeros(3, int)).shape
      (3,)
    """
    function = registry.choose("loss", LOSSES, name)
    registry.check(f"loss '{name}'", function, given)
    loss = functools.partial(function, **given)
    shapes = jax.ShapeDtypeStruct((1, 2), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.int32)
    jax.eval_shape(loss, *shapes)  # wrong values raise here, not at the first step
    return loss


def l1(params: Any, select: trees.Select = trees.kernels) -> jax.Array:
    """Computes the sum of absolute values of the selected parameters.

    Args:
      params: pytree of float arrays.
      select: static predicate of (path, leaf); default: kernels only, no biases or norms.

    Returns:
      float32[].

    Raises:
      ConfigError: if nothing is selected.

    Note:
      The gradient at 0 is 0.

    Example:
      >>> float(l1({"kernel": jnp.array([[1.0, -2.0]]), "bias": jnp.array([5.0])}))
      3.0
    """
    return sum(jnp.abs(leaf.astype(jnp.float32)).sum() for leaf in _selected(params, select))


def l2(params: Any, select: trees.Select = trees.kernels) -> jax.Array:
    """Computes half the sum of squares of the selected parameters.

    The factor 1/2 makes w the gradient: a penalty of c · l2 under plain SGD is the classic
    (coupled) weight decay c.

    Args:
      params: pytree of float arrays.
      select: static predicate of (path, leaf); default: kernels only, no biases or norms.

    Returns:
      float32[].

    Raises:
      ConfigError: if nothing is selected.

    Example:
      >>> float(l2({"kernel": jnp.array([[1.0, -2.0]]), "bias": jnp.array([5.0])}))
      2.5
    """
    leaves = _selected(params, select)
    return 0.5 * sum(jnp.square(leaf.astype(jnp.float32)).sum() for leaf in leaves)


def class_weights(counts: Sequence[int]) -> np.ndarray:
    """Computes class weights that give all classes the same total weight.

    weight_k = N / (K · count_k), with K the number of classes that have examples. The mean over
    the examples is 1, so that the learning rate keeps its meaning.

    Args:
      counts: int[K] training examples per class.

    Returns:
      float32[K]; 0 for a class without examples.

    Raises:
      ConfigError: if a count is negative or all are 0.

    Example:
      >>> class_weights([60, 20, 0]).round(2).tolist() == np.float32([0.67, 2, 0]).tolist()
      True
    """
    counts = np.asarray(counts, np.float64)
    if counts.ndim != 1 or (counts < 0).any() or not counts.any():
        raise ConfigError(f"counts must be one number >= 0 per class, not all 0, got {counts}")
    present = counts > 0
    weights = counts.sum() / (present.sum() * np.where(present, counts, 1))
    return np.where(present, weights, 0).astype(np.float32)


def _divergence(clean: jax.Array, moved: jax.Array) -> jax.Array:
    """Computes KL(softmax(clean) ‖ softmax(moved)), differentiable in both."""
    log_p, log_q = (jax.nn.log_softmax(z.astype(jnp.float32)) for z in (clean, moved))
    return (jnp.exp(log_p) * (log_p - log_q)).sum(-1)


def _probabilities(logits: jax.Array, target: jax.Array) -> jax.Array:
    """Converts labels or probabilities to float32[N, K] probabilities."""
    if isinstance(target, tuple):
        raise ConfigError(
            "the loss got (target, what a teacher returned): with fit's teacher=, give it as "
            "`distill.taught(loss)`, or leave teacher= out"
        )
    integer = jnp.issubdtype(target.dtype, jnp.integer)
    expected = logits.shape[:1] if integer else logits.shape
    if logits.ndim != 2 or target.shape != expected:
        raise ValueError(
            f"logits must be float[N, K] and target int[N] or float[N, K]; "
            f"got {logits.dtype}{list(logits.shape)} and {target.dtype}{list(target.shape)}"
        )
    if integer:
        return jax.nn.one_hot(target, logits.shape[-1], dtype=jnp.float32)
    return target.astype(jnp.float32)


def _selected(params: Any, select: trees.Select) -> list[jax.Array]:
    """Selects leaves; raises ConfigError if there are none."""
    selected = [leaf for path, leaf in trees.paths(params) if select(path, leaf)]
    if not selected:
        names = ", ".join(path for path, _ in trees.paths(params))
        raise ConfigError(f"the penalty selects no parameter; parameters are: {names}")
    return selected
