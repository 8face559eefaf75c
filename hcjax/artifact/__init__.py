"""A Model as one file that needs no code but this: `pack` and `unpack`."""

from hcjax.artifact.hcz import pack, unpack

__all__ = ["pack", "unpack"]
