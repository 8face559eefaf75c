"""hcjax: from training a CNN to the smallest and fastest artifact that is provably as good.

In reading order: `data` gives a Dataset, `models` a network as two pure functions, `losses` and
`optim` what to minimise and how, `fit` trains, `evaluate` scores, `load` reads a workdir back;
`accelerate` makes any function fast, `explain` says how, `jit` compiles it with better kernels and
`tune` in the way that is fastest here. `trace` reads any network as a Model; `fold` takes its
BatchNorm away, `cost` counts what it computes, `calibrate` sees how large its values get,
`fake_quantize` trains it as the integers that `int8` makes of it, `entropy` says in how many bits;
`equalize`, `adaround` and
`correct_bias` make better ones of them without training. `factorize` makes thinner layers, `ranks`
says which, `share` leaves kernels a few different numbers. `prune` makes masks over parameters;
`sensitivity` says what each layer can stand, and `pick` how far to go in each. `shrink`
takes whole channels out of a network, `trim` those that masks have emptied, `cut` does the same to
any tree that follows its parameters. `distill` holds the losses between a student and its teacher;
`pack` and `unpack` make one file of it all. `cards` says what a model is worth and costs, `changes`
what it answers otherwise than another, `error_analysis` which of its layers hurt,
`quantize.profile` which gain time; `load_any` reads a workdir or a packed file as a Model.

Letters, in every docstring: N batch, H W C image height, width and channels (NHWC), K classes,
D devices, I O input and output channels of a kernel (HWIO). Shapes are written `dtype[N, K]`.
Units: loss in nats per example; accuracy, error and sparsity as fractions; sizes in bytes; times
in seconds.
"""

from hcjax import data, distill, errors, losses, metrics, models, optim, prune, quantize, trees
from hcjax.accelerate.accelerate import accelerate, explain
from hcjax.accelerate.compiler import jit, tune
from hcjax.export.hcz import pack, unpack
from hcjax.graph.cost import cost
from hcjax.graph.fold import fold
from hcjax.graph.model import Model
from hcjax.graph.tracing.trace import trace
from hcjax.lowrank.factorize import factorize
from hcjax.lowrank.ranks import ranks
from hcjax.models import inference
from hcjax.prove import cards
from hcjax.prove.flips import changes
from hcjax.prune.structured.cut import cut
from hcjax.prune.structured.shrink import shrink
from hcjax.prune.structured.trim import trim
from hcjax.quantize.codebook import Shared, share
from hcjax.quantize.entropy import entropy
from hcjax.quantize.error_analysis import error_analysis
from hcjax.quantize.fake import fake_quantize
from hcjax.quantize.int8 import int8
from hcjax.quantize.ptq.adaround import adaround
from hcjax.quantize.ptq.bias_correction import correct_bias, mean_errors
from hcjax.quantize.ptq.equalize import equalize
from hcjax.quantize.ranges import calibrate
from hcjax.quantize.spec import QuantSpec
from hcjax.runs.saved import load_any
from hcjax.runs.workdir import load
from hcjax.search.pick import pick
from hcjax.search.sensitivity import sensitivity
from hcjax.train.evaluation import evaluate
from hcjax.train.loop import fit
from hcjax.train.step import init_state, make_loss_fn, make_train_step
from hcjax.version import VERSION

__version__ = VERSION

__all__ = [
    "Model",
    "QuantSpec",
    "Shared",
    "accelerate",
    "adaround",
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
    "factorize",
    "fake_quantize",
    "fit",
    "fold",
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
    "optim",
    "pack",
    "pick",
    "prune",
    "quantize",
    "ranks",
    "sensitivity",
    "share",
    "shrink",
    "trace",
    "trees",
    "trim",
    "tune",
    "unpack",
]
