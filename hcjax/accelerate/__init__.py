"""Acceleration: any function rewritten where the platform's compiler is slow, and compiled well."""

from hcjax.accelerate.accelerate import accelerate, explain
from hcjax.accelerate.compiler import jit, tune

__all__ = ["accelerate", "explain", "jit", "tune"]
