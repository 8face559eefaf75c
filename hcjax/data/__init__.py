"""Data: from a source's files to batches, and from batches to the network's input.

In reading order: `load` reads a `Dataset` from a source; `Dataset(train=(images, labels))` and
`from_arrays` make one of arrays. `train_batches` and `eval_batches` iterate over it in an order
that is a pure function of (seed, step). `make_prepare` turns a batch of pixels into augmented,
normalised floats inside the jitted step; `normalise` does so on the host, without augmentation.
`report` inspects a dataset; `describe` says what shape it has, without its files.
"""

from hcjax.data.augment import AUGMENTATIONS, needs_partners
from hcjax.data.batches import eval_batches, indices, train_batches
from hcjax.data.dataset import Dataset, LazyImages, Parts, Split
from hcjax.data.images import read_image
from hcjax.data.inspection import report, text
from hcjax.data.loading import DESCRIPTIONS, OTHERS, SOURCES, Description, describe, load
from hcjax.data.pairs import from_arrays
from hcjax.data.prepare import make_prepare, normalise
from hcjax.data.sound import log_mel
from hcjax.data.sources.table import encode

__all__ = [
    "AUGMENTATIONS",
    "DESCRIPTIONS",
    "OTHERS",
    "SOURCES",
    "Dataset",
    "Description",
    "LazyImages",
    "Parts",
    "Split",
    "describe",
    "encode",
    "eval_batches",
    "from_arrays",
    "indices",
    "load",
    "log_mel",
    "make_prepare",
    "needs_partners",
    "normalise",
    "read_image",
    "report",
    "text",
    "train_batches",
]
