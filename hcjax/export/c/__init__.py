"""A network as one file of C."""

from hcjax.export.c.source import EMITTERS, Source, c

__all__ = ["EMITTERS", "Source", "c"]
