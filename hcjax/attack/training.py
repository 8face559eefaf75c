"""The losses on perturbed inputs by name, `adversarial` and `trades`, with their attack."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from hcjax import losses
from hcjax.attack import balls
from hcjax.attack.gradient import pgd
from hcjax.errors import ConfigError

LOSSES = {"adversarial": losses.adversarial, "trades": losses.trades}
ATTACK = ("eps", "norm", "steps", "step_size")  # options of the attack, `pgd`


def create(name: str, options: Mapping[str, Any], mean: Any, std: Any) -> losses.Robust:
    """Creates a loss on inputs that `pgd` perturbs.

    Args:
      name: a key of `LOSSES`.
      options: of the attack: eps, which has no default, norm, steps and step_size; of
        `losses.trades` beta; others are those of cross-entropy.
      mean, std: float[C] of the images; None for inputs that are none.

    Raises:
      ConfigError: if an option is unknown or illegal, or inputs are no images.

    Example:
      >>> create("trades", {"eps": 0.3, "beta": 1.0}, 0.0, 1.0).beta
      1.0
    """
    if mean is None:
        raise ConfigError(f"loss '{name}' perturbs images, and these inputs are none")
    if "eps" not in options:
        raise ConfigError(
            f"loss '{name}' needs the option 'eps', the radius where a pixel is 0..1, e.g. 0.3"
        )
    moves = {k: v for k, v in options.items() if k in ATTACK}
    balls.check(moves["eps"], moves.get("norm", "linf"))
    if moves.get("steps", 1) < 1:
        raise ConfigError(f"steps of an attack must be >= 1, got {moves['steps']}")
    own = {k: v for k, v in options.items() if k == "beta" and name == "trades"}
    rest = {k: v for k, v in options.items() if k not in moves and k not in own}
    inner = losses.create("cross_entropy", **rest)
    perturb = partial(pgd, **{"steps": 10} | moves)
    return LOSSES[name](perturb, loss=inner, mean=mean, std=std, **own)
