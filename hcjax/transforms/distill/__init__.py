"""Distillation: losses between a student and its teacher, and what both compute inside."""

from hcjax.transforms.distill.activations import attention, features, hint, relational
from hcjax.transforms.distill.logits import decoupled, kl, taught

__all__ = ["attention", "decoupled", "features", "hint", "kl", "relational", "taught"]
