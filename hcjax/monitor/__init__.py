"""Drift: whether what a network is asked now is distributed as what it was tested on.

`features` turns logits and inputs into a few numbers an example; `reference` their histograms on
known data, a dict of a few kB that is packed with the network, as `about["reference"]`; `count` the
histograms of a window, which `add` adds to others; `drift` compares both, `worst` finds what has
drifted most surely, and `prometheus` writes the result as text. All are pure functions of arrays. A
server counts what it answers, where the file has a reference (docs/serve.md).
"""

from hcjax.monitor.drift import Drift, chi2, drift, ks, psi, worst
from hcjax.monitor.histograms import add, count, features, reference
from hcjax.monitor.text import prometheus

__all__ = [
    "Drift",
    "add",
    "chi2",
    "count",
    "drift",
    "features",
    "ks",
    "prometheus",
    "psi",
    "reference",
    "worst",
]
