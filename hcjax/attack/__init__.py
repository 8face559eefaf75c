"""Attacks: small changes of an input, within a ball, that make a network err.

Each is a pure function `(apply, params, inputs, labels, key, *, eps, norm, ...) -> inputs`, of
pixels in 0..1, jitted and batched by its caller; `auto` runs the standard ones on a data set.
"""

from __future__ import annotations

from hcjax.attack.apgd import apgd, apgd_targeted
from hcjax.attack.auto import ATTACKS, STANDARD, Robustness, auto
from hcjax.attack.fab import fab_targeted
from hcjax.attack.gradient import fgsm, pgd
from hcjax.attack.square import square

__all__ = [
    "ATTACKS",
    "STANDARD",
    "Robustness",
    "apgd",
    "apgd_targeted",
    "auto",
    "fab_targeted",
    "fgsm",
    "pgd",
    "square",
]
