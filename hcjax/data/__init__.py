"""Data: from a source's files to batches, and from batches to the network's input.

In reading order: `load` reads a `Dataset` from a source. `train_batches` and `eval_batches` iterate
over it in an order that is a pure function of (seed, step). `make_prepare` turns a batch of bytes
into augmented, normalised floats inside the jitted step; `normalise` does so on the host, without
augmentation. `report` inspects a dataset.
"""

from hcjax.data.augment import AUGMENTATIONS, needs_partners
from hcjax.data.batches import eval_batches, indices, train_batches
from hcjax.data.dataset import Dataset, LazyImages, Parts, Split
from hcjax.data.images import read_image
from hcjax.data.inspection import report, text
from hcjax.data.loading import SOURCES, load
from hcjax.data.prepare import make_prepare, normalise

__all__ = [
    "AUGMENTATIONS",
    "SOURCES",
    "Dataset",
    "LazyImages",
    "Parts",
    "Split",
    "eval_batches",
    "indices",
    "load",
    "make_prepare",
    "needs_partners",
    "normalise",
    "read_image",
    "report",
    "text",
    "train_batches",
]
