"""`load`: from the name of a source to a dataset. Adding a source is one file and one line here.

A source is a function `(name, path, image_size, channels) -> Parts` that finds what is ready-made
and refuses what is wrong; splitting, statistics and memory are the same for all of them.
"""

from __future__ import annotations

from hcjax.data import idx, mnist
from hcjax.data.dataset import Dataset
from hcjax.data.split import assemble
from hcjax.errors import ConfigError, unknown_name

SOURCES = {
    "mnist": lambda **_: mnist.load(),
    "idx": lambda *, path, **_: idx.load(path),
}


def load(
    source="mnist",
    *,
    name=None,
    path=None,
    validation=5000,
    test=0.1,
    seed=0,
    image_size=None,
    channels=None,
    limit=None,
    memory_limit_bytes=4 * 2**30,
) -> Dataset:
    if source not in SOURCES:
        raise ConfigError(unknown_name("data source", source, SOURCES))
    parts = SOURCES[source](name=name, path=path, image_size=image_size, channels=channels)
    return assemble(
        parts, name=name or source, validation=validation, test=test, seed=seed, limit=limit
    )
