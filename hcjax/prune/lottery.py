"""`lottery`: trains, prunes, rewinds the remaining weights, and repeats."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hcjax import trees
from hcjax.core import brief
from hcjax.errors import ConfigError
from hcjax.prune.masks import apply, check_alike, masks, selected
from hcjax.prune.patterns import Block
from hcjax.prune.scores import Criterion, resolved


class Lottery(NamedTuple):
    """The result of `lottery`.

    Attributes:
      params: after the last training; zero where a mask is False.
      masks: the last ones.
      history: for each training "round", "sparsity" of the selected weights, "weights" that remain,
        and, with `evaluate`, "score".
    """

    params: Any
    masks: Any
    history: list[dict]

    __repr__ = brief.record


def lottery(
    train: Callable[[Any, Any, int], Any],
    params: Any,
    *,
    rounds: int,
    rate: float = 0.2,
    rewind_to: int = 0,
    evaluate: Callable[[Any], float] | None = None,
    scores: str | Criterion | Callable[[Any], Any] | None = None,
    scope: str = "global",
    structure: Block | None = None,
    select: trees.Select | str | Sequence[str] = trees.kernels,
    **options: Any,
) -> Lottery:
    """Finds a lottery ticket by iterative magnitude pruning, and trains it.

    Trains; then, `rounds` times, prunes the fraction `rate` of the remaining weights, those of
    least magnitude or score; rewinds the others to their values in `params`; trains. After round r
    the sparsity is 1 - (1 - rate)^r.

    Args:
      train: `(params, masks, step) -> params`, any training that keeps pruned weights at zero, e.g.
        `fit` with `masked(masks)` last in its optimiser, from that step of its schedule on.
      params: pytree of arrays to rewind to: the initial ones or, for larger networks, those of an
        early step of the same training.
      rounds: >= 0.
      rate: fraction pruned in each round, in (0, 1).
      rewind_to: the step of `params`, handed to `train`.
      scores: of the trained weights: the name of a score in `SCORES`, a `Criterion`, or `params ->
        pytree of float arrays like them`. None: magnitudes.
      evaluate: `params -> float`, on the validation set, for the history; None: no evaluation.
      scope: "global", "lamp", "uniform" or "erk"; see `masks`.
      structure, select: as of `masks`.
      **options: of the named score, e.g. `loss_fn` and `batches`.

    Returns:
      Lottery.

    Raises:
      TypeError: if there are options without the name of a score.
      ConfigError: if an argument is out of range, or `train` returns a tree of another structure,
        or a weight that is not zero where its mask is False.

    Reference:
      Frankle and Carbin, "The Lottery Ticket Hypothesis", 2018, arXiv:1803.03635, section 1 and
      appendix B; Frankle et al., "Stabilizing the Lottery Ticket Hypothesis", 2019,
      arXiv:1903.01611 (rewinding to a later step). Deviation: one rate for all layers; they halve
      it for the last layer.

    Example:
      >>> train = lambda params, masks, step: jax.tree.map(lambda w: 2 * w, params)
      >>> ticket = lottery(train, {"w": jnp.array([[1.0, -4.0, 0.5, 3.0]])}, rounds=2, rate=0.5)
      >>> ticket.params["w"].tolist(), [row["weights"] for row in ticket.history]
      ([[0.0, -8.0, 0.0, 0.0]], [4, 2, 1])
    """
    if rounds < 0 or not 0 < rate < 1 or 1 - (1 - rate) ** rounds == 1:
        raise ConfigError(
            f"rounds >= 0 and 0 < rate < 1 that leave some weights are needed, got {rounds} and "
            f"{rate}"
        )
    chosen = selected(params, select)
    size = sum(w.size for w, use in zip(jax.tree.leaves(params), chosen, strict=True) if use)
    where = {"scope": scope, "structure": structure, "select": select}
    named = isinstance(scores, str | Criterion)
    if not named:
        resolved(scores, params, options)  # refuses options
    mask = jax.tree.map(jnp.asarray, masks(params, sparsity=0.0, **where))
    trained, history = params, []
    for i in range(rounds + 1):
        if i:
            # pruned weights score lower than any other, also than one that happens to be 0
            score = "magnitude" if scores is None else scores if named else scores(trained)
            importance = resolved(score, trained, options)
            remaining = jax.tree.map(lambda m, s: jnp.where(m, s, -jnp.inf), mask, importance)
            sparsity = 1 - (1 - rate) ** i
            mask = masks(params, sparsity=sparsity, scores=remaining, **where)
            mask = jax.tree.map(jnp.asarray, mask)
        trained = train(apply(mask, params), mask, rewind_to)
        _check(mask, trained)
        pairs = zip(jax.tree.leaves(mask), chosen, strict=True)
        weights = sum(int(leaf.sum()) for leaf, use in pairs if use)
        row = {"round": i, "sparsity": 1 - weights / size, "weights": weights}
        history.append(row | ({} if evaluate is None else {"score": float(evaluate(trained))}))
    return Lottery(trained, mask, history)


def _check(masks: Any, params: Any) -> None:
    """Raises ConfigError unless weights have the structure of the masks, and zeros where False."""
    check_alike("what train gives back", params, masks)
    for (path, mask), weight in zip(trees.paths(masks), jax.tree.leaves(params), strict=True):
        if (~mask & (weight != 0)).any():
            raise ConfigError(
                f"train gave back weights of {path} that are not zero where the mask is False; put "
                "prune.masked(masks) last in its optimiser"
            )
