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

from hcjax import cards, data, errors, losses, metrics, models, optim, quantize, trees
from hcjax.accelerate import accelerate, explain
from hcjax.artifact import pack, unpack
from hcjax.changes import changes
from hcjax.graph import (
    Model,
    adaround,
    calibrate,
    correct_bias,
    cost,
    entropy,
    equalize,
    error_analysis,
    factorize,
    fake_quantize,
    fold,
    int8,
    mean_errors,
    ranks,
    trace,
)
from hcjax.models import inference
from hcjax.saved import load_any
from hcjax.training.compiler import jit, tune
from hcjax.training.evaluate import evaluate
from hcjax.training.loop import fit
from hcjax.training.step import init_state, make_loss_fn, make_train_step
from hcjax.transforms import distill, prune
from hcjax.transforms.cut import cut
from hcjax.transforms.pick import pick
from hcjax.transforms.sensitivity import sensitivity
from hcjax.transforms.share import Shared, share
from hcjax.transforms.shrink import shrink
from hcjax.transforms.trim import trim
from hcjax.version import VERSION
from hcjax.workdir import load

__version__ = VERSION

__all__ = [
    "Model",
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
