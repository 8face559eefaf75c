"""One network, one graph, many readings: `trace` reads it, the others are readings of it."""

from hcjax.graph.adaround import adaround
from hcjax.graph.analysis import error_analysis
from hcjax.graph.channels import Channels, channels
from hcjax.graph.correction import correct_bias, mean_errors
from hcjax.graph.cost import Cost, cost
from hcjax.graph.entropy import entropy
from hcjax.graph.equalize import equalize
from hcjax.graph.factorize import factorize
from hcjax.graph.fake import fake_quantize
from hcjax.graph.fold import fold
from hcjax.graph.integer import int8
from hcjax.graph.model import Graph, Model, Op, run
from hcjax.graph.observe import Ranges, calibrate
from hcjax.graph.ranks import Factors, ranks
from hcjax.graph.trace import trace

__all__ = [
    "Channels",
    "Cost",
    "Factors",
    "Graph",
    "Model",
    "Op",
    "Ranges",
    "adaround",
    "calibrate",
    "channels",
    "correct_bias",
    "cost",
    "entropy",
    "equalize",
    "error_analysis",
    "factorize",
    "fake_quantize",
    "fold",
    "int8",
    "mean_errors",
    "ranks",
    "run",
    "trace",
]
