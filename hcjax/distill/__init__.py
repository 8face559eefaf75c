"""Distillation: losses between the logits, or the activations, of a student and its teacher."""

from hcjax.distill.activations import attention, features, hint, relational
from hcjax.distill.guided import guided, projected
from hcjax.distill.logits import TEACH, decoupled, ensemble, kl, squared, taught

__all__ = [
    "TEACH",
    "attention",
    "decoupled",
    "ensemble",
    "features",
    "guided",
    "hint",
    "kl",
    "projected",
    "relational",
    "squared",
    "taught",
]
