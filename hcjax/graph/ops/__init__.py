"""Ops: the facts of each kind, one literal dict for each group, and integer arithmetic."""

from hcjax.graph.ops.kind import Kind
from hcjax.graph.ops.table import KINDS, computes, defined, family, kind_of

__all__ = ["KINDS", "Kind", "computes", "defined", "family", "kind_of"]
