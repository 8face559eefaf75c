"""One network, one graph, many readings: `trace` reads it, `fold` and `cost` are readings of it."""

from hcjax.graph.cost import Cost, cost
from hcjax.graph.fold import fold
from hcjax.graph.model import Graph, Model, Op, run
from hcjax.graph.trace import trace

__all__ = ["Cost", "Graph", "Model", "Op", "cost", "fold", "run", "trace"]
