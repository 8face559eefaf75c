"""Distillation: losses between a student and its teacher, and what both compute inside."""

from hcjax.transforms.distill.activations import attention, features, hint, relational
from hcjax.transforms.distill.guided import guided, projected
from hcjax.transforms.distill.logits import TEACH, decoupled, ensemble, kl, taught

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
    "taught",
]
