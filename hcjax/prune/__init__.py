"""Pruning: masks over parameter trees, and schedules as optax transformations.

Score, sparsity allocation (`scope`), sparsity pattern (`structure`) and schedule are chosen
independently. `SCORES` holds every score by name: `masks` prunes by one at once, `scored` while
training (`movement`, `fisher` and `taylor` are short for it), `shrink` whole channels. `gradual`
prunes by magnitude at the end of an optax chain, `lottery` between trainings. A mask zeroes
weights: that makes a packed file smaller, and nothing faster.
"""

from hcjax.prune.allocation import erk, lamp
from hcjax.prune.lottery import lottery
from hcjax.prune.masked import hold, masked
from hcjax.prune.masks import apply, masks, nonzero
from hcjax.prune.patterns import Block, NofM
from hcjax.prune.rigl import rigl
from hcjax.prune.schedules import cubic, gradual
from hcjax.prune.scored import fisher, in_training, movement, scored, taylor
from hcjax.prune.scores import SCORES, Criterion, score
from hcjax.prune.structured.refit import refit

__all__ = [
    "SCORES",
    "Block",
    "Criterion",
    "NofM",
    "apply",
    "cubic",
    "erk",
    "fisher",
    "gradual",
    "hold",
    "in_training",
    "lamp",
    "lottery",
    "masked",
    "masks",
    "movement",
    "nonzero",
    "refit",
    "rigl",
    "score",
    "scored",
    "taylor",
]
