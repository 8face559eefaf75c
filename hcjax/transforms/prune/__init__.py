"""Pruning: masks over parameter trees, and schedules as optax transformations.

Score, scope, structure and schedule are chosen independently: `masks` takes any scores at once,
`gradual` magnitudes as training goes on, `scored` whatever follows from gradients (`movement`,
`fisher` and `taylor` are of it), `lottery` any function of the trained weights. A mask zeroes
weights: that makes a packed file smaller, and nothing faster.
"""

from hcjax.transforms.prune.fisher import fisher
from hcjax.transforms.prune.lottery import lottery
from hcjax.transforms.prune.masked import masked
from hcjax.transforms.prune.masks import apply, masks, nonzero
from hcjax.transforms.prune.movement import movement
from hcjax.transforms.prune.rigl import rigl
from hcjax.transforms.prune.schedules import cubic, gradual
from hcjax.transforms.prune.scopes import erk, lamp
from hcjax.transforms.prune.scored import scored
from hcjax.transforms.prune.scores import SCORES, score
from hcjax.transforms.prune.structures import Block, NofM
from hcjax.transforms.prune.taylor import taylor

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
