"""`lottery`: train, prune, rewind the weights that are left, and again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hcjax import trees
from hcjax.errors import ConfigError
from hcjax.prune.masks import apply, check_alike, masks, selected
from hcjax.prune.patterns import Block


class Lottery(NamedTuple):
    """What `lottery` returns.

    params: after the last training, zero where a mask is False. masks: the last ones. history: of
    each training its round, the sparsity of the selected weights, how many are left, and, where
    `evaluate` was given, its score.
    """

    params: Any
    masks: Any
    history: list[dict]


def lottery(
    train: Callable[[Any, Any, int], Any],
    params: Any,
    *,
    rounds: int,
    rate: float = 0.2,
    rewind_to: int = 0,
    evaluate: Callable[[Any], float] | None = None,
    scores: Callable[[Any], Any] | None = None,
    scope: str = "global",
    structure: Block | None = None,
    select: trees.Select | str | Sequence[str] = trees.kernels,
) -> Lottery:
    """Returns a lottery ticket: the weights left by iterative pruning, trained.

    Trains; then, `rounds` times: takes away the part `rate` of the weights that are left, those of
    least magnitude or score; sets the others back to what they are in `params`; trains. After round
    r the sparsity is 1 - (1 - rate)^r.

    Args:
      train: `(params, masks, step) -> params`, any training that keeps the zeros, e.g. `fit` with
        `masked(masks)` last in its optimiser; it begins at that step of its schedule.
      params: pytree of arrays to rewind to: the initial ones, or, which larger networks need, those
        of an early step of the same training.
      rounds: >= 0.
      rate: in (0, 1).
      rewind_to: the step that `params` are of, for `train`.
      scores: `params -> pytree of float arrays like them`, of the trained weights, e.g. a `score`;
        None for magnitudes.
      evaluate: `params -> float` for the history, on validation data; None for none.
      scope: "global", "lamp", "uniform" or "erk"; see `masks`.
      structure, select: as of `masks`.

    Returns:
      Lottery.

    Raises:
      ConfigError: if an argument is not legal, or `train` gives back a tree unlike `params`, or a
        weight that is not zero where its mask is False.

    Reference:
      Frankle and Carbin, "The Lottery Ticket Hypothesis", 2018, arXiv:1803.03635, section 1 and
      appendix B; Frankle et al., "Stabilizing the Lottery Ticket Hypothesis", 2019,
      arXiv:1903.01611 (rewinding to a later step). Deviation: one rate for all layers; theirs
      halves that of the last one.

    Example:
      >>> train = lambda params, masks, step: jax.tree.map(lambda w: 2 * w, params)
      >>> found = lottery(train, {"w": jnp.array([[1.0, -4.0, 0.5, 3.0]])}, rounds=2, rate=0.5)
      >>> found.params["w"].tolist(), [row["weights"] for row in found.history]
      ([[0.0, -8.0, 0.0, 0.0]], [4, 2, 1])
    """
    if rounds < 0 or not 0 < rate < 1 or 1 - (1 - rate) ** rounds == 1:
        raise ConfigError(
            f"rounds >= 0 and 0 < rate < 1 that leave some weights are needed, got {rounds} and "
            f"{rate}"
        )
    chosen = selected(params, select)
    size = sum(w.size for w, use in zip(jax.tree.leaves(params), chosen, strict=True) if use)
    options = {"scope": scope, "structure": structure, "select": select}
    found = jax.tree.map(jnp.asarray, masks(params, sparsity=0.0, **options))
    trained, history = params, []
    for i in range(rounds + 1):
        if i:
            # what went has no score at all, not that of a weight that happens to be 0
            rated = jax.tree.map(jnp.abs, trained) if scores is None else scores(trained)
            left = jax.tree.map(lambda m, s: jnp.where(m, s, -jnp.inf), found, rated)
            sparsity = 1 - (1 - rate) ** i
            found = masks(params, sparsity=sparsity, scores=left, **options)
            found = jax.tree.map(jnp.asarray, found)
        trained = train(apply(found, params), found, rewind_to)
        _check(found, trained)
        pairs = zip(jax.tree.leaves(found), chosen, strict=True)
        weights = sum(int(mask.sum()) for mask, use in pairs if use)
        row = {"round": i, "sparsity": 1 - weights / size, "weights": weights}
        history.append(row | ({} if evaluate is None else {"score": float(evaluate(trained))}))
    return Lottery(trained, found, history)


def _check(masks: Any, params: Any) -> None:
    """Raises ConfigError unless weights are like the masks, and zero where those are False."""
    check_alike("what train gives back", params, masks)
    for (path, mask), weight in zip(trees.paths(masks), jax.tree.leaves(params), strict=True):
        if (~mask & (weight != 0)).any():
            raise ConfigError(
                f"train gave back weights of {path} that are not zero where the mask is False; put "
                "prune.masked(masks) last in its optimiser"
            )
