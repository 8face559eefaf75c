"""Acceleration: rewrites any function for the platform's compiler, and compiles it well."""

from hcjax.accelerate.accelerate import accelerate, explain
from hcjax.accelerate.compiler import jit, tune

__all__ = ["accelerate", "explain", "jit", "tune"]
