"""hcjax: from training a CNN to the smallest and fastest artifact, with a proof of its accuracy.

The public functions in reading order:

Train. `data` loads a Dataset. `models` creates a network, a pair of pure functions; `network` takes
one of another library: Flax Linen or NNX, Equinox, Haiku, Keras. `tasks` are what networks are for:
classes, boxes, numbers. `losses` and `optim` hold losses and optimisers. `fit` gives a Fit, whose
`.params` are trained; `evaluate` an Evaluation, with `.summary`; `load` the Trained network of a
workdir, to be called with images.

Accelerate. `accelerate` rewrites any function for the platform's compiler, and `explain` lists the
rewrites. `jit` compiles with better kernels; `tune` measures several ways and keeps the fastest.

Read. `trace` turns a network into a Model, a graph with parameters. `fold` merges BatchNorm into
the layers. `cost` counts MACs, parameters and bytes.

Prune. `prune` holds masks over parameters. `sensitivity` measures how much each layer can lose, and
`pick` chooses a level for each. `shrink` removes whole channels, `trim` those that masks have
emptied, and `cut` applies the same removal to any tree shaped like the parameters. `factorize`
splits layers into thinner ones, of the ranks that `ranks` chooses.

Quantize. `calibrate` observes the ranges of all values. `fake_quantize` gives a Model that trains
like integers, and `int8` the integers; `in_float` marks what stays in float. `equalize`, `adaround`
and `correct_bias` (with `mean_errors`) improve them without training. `share` clusters weights.
`entropy` counts the bits that an entropy coder needs. `quantize.profile` times each layer in float
and in int8.

Distil. `distill` holds the losses between a student and its teacher.

Prove. `cards` scores accuracy, size and speed. `changes` lists prediction flips between two models.
`error_analysis` measures the quantization error of each layer. `attack` perturbs inputs until a
network errs. `pictures` draws what was found.

Ship. `pack` writes a Model to one file and `unpack` reads it. `load_any` gives (Model, about) of a
workdir or a packed file: the network, and a dict of what is known of its images and classes.
`export` writes it as programs and files that others run, and checks them. `monitor` compares what
it is asked then with what it was tested on.

docs/glossary.md defines the terms.

Letters in all docstrings: N batch, H W C image height, width and channels (NHWC), K classes,
D devices, I O input and output channels of a kernel (HWIO). Shapes are written `dtype[N, K]`.
Units: loss in nats per example; accuracy, error and sparsity as fractions; sizes in bytes; times
in seconds.
"""

from hcjax import (
    attack,
    data,
    distill,
    errors,
    export,
    losses,
    metrics,
    models,
    monitor,
    optim,
    prune,
    quantize,
    tasks,
    trees,
)
from hcjax.accelerate.accelerate import accelerate, explain
from hcjax.accelerate.compiler import jit, tune
from hcjax.core.regions import in_float
from hcjax.export.hcz import pack, unpack
from hcjax.graph.cost import cost
from hcjax.graph.fold import fold
from hcjax.graph.model import Model
from hcjax.graph.tracing.trace import trace
from hcjax.lowrank.factorize import factorize
from hcjax.lowrank.ranks import ranks
from hcjax.models import inference
from hcjax.models.foreign import network
from hcjax.prove import cards
from hcjax.prove.flips import changes
from hcjax.prune.structured.cut import cut
from hcjax.prune.structured.shrink import shrink
from hcjax.prune.structured.trim import trim
from hcjax.quantize.calibration.ranges import calibrate
from hcjax.quantize.codebook import Shared, share
from hcjax.quantize.entropy import entropy
from hcjax.quantize.error_analysis import error_analysis
from hcjax.quantize.fake import fake_quantize
from hcjax.quantize.int8 import int8
from hcjax.quantize.ptq.adaround import adaround
from hcjax.quantize.ptq.bias_correction import correct_bias, mean_errors
from hcjax.quantize.ptq.equalize import equalize
from hcjax.quantize.spec import QuantSpec
from hcjax.report import pictures
from hcjax.runs.saved import load_any
from hcjax.runs.workdir import load
from hcjax.search.pick import pick
from hcjax.search.sensitivity import sensitivity
from hcjax.train.evaluation import evaluate
from hcjax.train.loop import fit
from hcjax.train.objective import Every, Objective
from hcjax.train.step import init_state, make_loss_fn, make_train_step
from hcjax.version import VERSION

__version__ = VERSION

__all__ = [
    "Every",
    "Model",
    "Objective",
    "QuantSpec",
    "Shared",
    "accelerate",
    "adaround",
    "attack",
    "calibrate",
    "cards",
    "changes",
    "correct_bias",
    "cost",
    "cut",
    "data",
    "distill",
    "entropy",
    "equalize",
    "error_analysis",
    "errors",
    "evaluate",
    "explain",
    "export",
    "factorize",
    "fake_quantize",
    "fit",
    "fold",
    "in_float",
    "inference",
    "init_state",
    "int8",
    "jit",
    "load",
    "load_any",
    "losses",
    "make_loss_fn",
    "make_train_step",
    "mean_errors",
    "metrics",
    "models",
    "monitor",
    "network",
    "optim",
    "pack",
    "pick",
    "pictures",
    "prune",
    "quantize",
    "ranks",
    "sensitivity",
    "share",
    "shrink",
    "tasks",
    "trace",
    "trees",
    "trim",
    "tune",
    "unpack",
]
