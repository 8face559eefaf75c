"""Pruning: masks over parameter trees, and schedules as optax transformations.

Score, scope, structure and schedule are chosen independently: `masks` takes any scores at once,
`gradual` magnitudes as training goes on, `scored` whatever follows from gradients (`movement`,
`fisher` and `taylor` are of it), `lottery` any function of the trained weights. A mask zeroes
weights: that makes a packed file smaller, and nothing faster.
"""

from hcjax.prune.allocation import erk, lamp
from hcjax.prune.fisher import fisher
from hcjax.prune.lottery import lottery
from hcjax.prune.masked import masked
from hcjax.prune.masks import apply, masks, nonzero
from hcjax.prune.movement import movement
from hcjax.prune.patterns import Block, NofM
from hcjax.prune.rigl import rigl
from hcjax.prune.schedules import cubic, gradual
from hcjax.prune.scored import scored
from hcjax.prune.scores import SCORES, score
from hcjax.prune.taylor import taylor

__all__ = [
    "SCORES",
    "Block",
    "NofM",
    "apply",
    "cubic",
    "erk",
    "fisher",
    "gradual",
    "lamp",
    "lottery",
    "masked",
    "masks",
    "movement",
    "nonzero",
    "rigl",
    "score",
    "scored",
    "taylor",
]
