"""One network, one graph, many readings: `trace` builds the graph, and the others read it."""

from hcjax.graph.cost import Cost, cost
from hcjax.graph.coupling.channels import Channels, channels
from hcjax.graph.fold import fold
from hcjax.graph.model import Graph, Model, Op, run
from hcjax.graph.tracing.trace import trace

__all__ = ["Channels", "Cost", "Graph", "Model", "Op", "channels", "cost", "fold", "run", "trace"]
