"""`pack` and `unpack`: a Model, with its graph, as one self-contained file."""

from hcjax.export.hcz.hcz import pack, unpack

__all__ = ["pack", "unpack"]
