"""A Model as one file that needs no code but this: `pack` and `unpack`."""

from hcjax.export.hcz.hcz import pack, unpack

__all__ = ["pack", "unpack"]
