"""Errors that a user can mend; the launcher prints their message and exits with code 2.

Every message gives the expected value, the actual one and a remedy. Any other exception is a bug
of hcjax and keeps its traceback.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

# key of a config -> what else the field calls it, or an option of that name; letters and digits
_KEYS = {
    "optim.learning_rate": "lr rate learningrate baselr maxlr peaklr",
    "optim.weight_decay": "wd decay weightdecay l2reg",
    "optim.momentum": "mom momentum",
    "optim.b1": "beta beta1 betas",
    "optim.b2": "beta2",
    "optim.epsilon": "eps",
    "optim.clip_norm": (
        "clip gradclip clipgrad clipgradnorm gradclipnorm maxgradnorm maxnorm gradientclip "
        "gradientclipping gradientclipval clipvalue globalnorm"
    ),
    "optim.accumulate_steps": (
        "accumulate accumsteps gradaccum gradaccumsteps gradientaccumulation "
        "gradientaccumulationsteps accumulategradbatches microbatches"
    ),
    "optim.name": "opt optimizer optimiser solver",
    "optim.freeze": "frozen freezelayers frozenlayers",
    "schedule.name": "scheduler lrscheduler lrschedule lrpolicy",
    "schedule.warmup_steps": "warmup warmupepochs numwarmupsteps",
    "schedule.milestones": "drops stepsize stepmilestones decaysteps",
    "schedule.factor": "decayrate decayfactor schedulegamma",
    "schedule.final_fraction": "etamin minlr endlr finallr",
    "train.batch_size": "bs batch batchsize minibatch trainbatchsize",
    "train.eval_batch_size": "evalbatch valbatchsize testbatchsize",
    "train.epochs": (
        "epoch epochs numepochs nepochs maxepochs trainepochs steps maxsteps numsteps "
        "trainsteps iterations iters"
    ),
    "train.patience": "earlystopping earlystop patience",
    "train.ema_decay": "ema emarate polyak",
    "train.eval_every": "evalinterval evalfreq evalsteps valinterval valevery validateevery",
    "train.log_every": "loginterval logfreq logsteps printfreq",
    "train.checkpoint_every": (
        "saveevery savesteps savefreq saveinterval checkpointinterval ckptevery"
    ),
    "train.keep": "keepcheckpoints maxtokeep savetotallimit",
    "model.dropout": "dropout droprate dropoutrate pdrop",
    "model.name": "arch architecture network net backbone modelname",
    "model.activation": "act activation nonlinearity",
    "model.dtype": "precision amp fp16 bf16 mixedprecision",
    "model.sync_batchnorm": "syncbn syncbatchnorm",
    "model.norm_momentum": "bnmomentum",
    "loss.name": "criterion lossfn lossname",
    "loss.smoothing": "labelsmoothing smoothing",
    "loss.class_weights": "classweight classweights",
    "data.source": "dataset datasource",
    "data.name": "datasetname",
    "data.path": "datadir datapath dataroot datasetpath root",
    "data.validation": "val valsize valsplit valfraction validationsplit validationsize",
    "data.test": "testsize testsplit testfraction",
    "data.image_size": "imgsize imagesize resolution inputsize imsize",
    "data.channels": "numchannels inchannels inputchannels",
    "data.limit": "subset maxsamples numsamples maxexamples take",
    "data.threads": "workers numworkers nworkers numthreads",
    "augment.use": (
        "aug augmentation augmentations transform transforms mixup cutmix flip hflip crop "
        "randaugment autoaugment"
    ),
    "augment.flip.probability": "p prob flipprob",
    "augment.affine.rotate": "rotation degrees angle",
    "seed": "randomseed rngseed rng",
    "platform": "device accelerator backend",
    "init_from": "pretrained checkpoint ckpt initcheckpoint finetunefrom resumefrom",
    "stages": "pipeline transformations",
    "distill.temperature": "t temp tau temperature",
    "distill.weight": "distillweight distillalpha kdweight",
    "prune.sparsity": "pruneratio pruningratio amount targetsparsity",
    "prune.n_of_m": "nm nofm",
    "quantize.bits": "nbits numbits wbits weightbits bitwidth",
    "quantize.activation_bits": "abits actbits activationbits",
    "quantize.method": "calibration calibrator calibrationmethod observer",
    "share.clusters": "numclusters nclusters codebooksize",
}
# the same for names in tables: models, optimisers, losses, ...
_NAMES = {
    "lenet5": "lenet caffelenet",
    "mnist_cnn": "cnn convnet simplecnn",
    "seed_cnn": "cnn convnet simplecnn",
    "lenet_300_100": "mlp fc fullyconnected dense",
    "nin": "networkinnetwork",
    "sgd": "gd sgdm sgdmomentum nag momentumsgd",
    "adamw": "adamweightdecay",
    "cross_entropy": (
        "ce xent nll softmax categoricalcrossentropy softmaxcrossentropy "
        "sparsecategoricalcrossentropy logloss"
    ),
    "focal": "focalloss",
    "cosine": "cosinedecay cosineannealing cosineannealinglr cos warmupcosine",
    "one_cycle": "onecyclelr 1cycle",
    "step": "steplr multistep multisteplr piecewise exponential",
    "reduce_on_plateau": "plateau reducelronplateau",
    "constant": "none fixed const",
    "flip": "hflip horizontalflip randomhorizontalflip mirror vflip",
    "crop": "randomcrop randomresizedcrop resizedcrop",
    "shift": "translate translation pad",
    "affine": "rotate rotation randomrotation shear scale",
    "color": "colorjitter colourjitter jitter colour brightness",
    "cutout": "randomerasing erasing randomerase",
    "noise": "gaussiannoise gaussian",
    "tfds": "tensorflowdatasets tf cifar10 cifar100 svhn",
    "folder": "imagefolder images directory dir",
    "npz": "numpy npy",
    "idx": "ubyte fashionmnist",
    "distill": "distillation distil kd teach",
    "kl": "distillation distil kd teach",
    "quantize": "quant quantization quantise ptq qat int8",
    "prune": "pruning sparsify sparse",
    "shrink": "structured slim channelpruning",
    "factorize": "svd tucker lowrank decompose",
    "share": "cluster clustering weightsharing kmeans",
    "decoupled": "dkd",
}
USUAL_KEYS = {word: key for key, words in _KEYS.items() for word in words.split()}
_ALIKE = 0.7  # least share of letters in common, in order, of names that may have been meant


class HcjaxError(Exception):
    """Base of every error that a user can mend."""


class ConfigError(HcjaxError, ValueError):
    """A config key or value, or an argument, is not legal."""


class DataError(HcjaxError, ValueError):
    """A data file, folder or dataset is missing, damaged or inconsistent."""


class CheckpointError(HcjaxError, RuntimeError):
    """A checkpoint or workdir cannot be written, read, or belongs to another run."""


class ArtifactError(HcjaxError, ValueError):
    """A packed model is damaged or of another format, or a model cannot be packed."""


class PlatformError(HcjaxError, RuntimeError):
    """A requested platform, device or process is not there."""


class DivergedError(HcjaxError, FloatingPointError):
    """The loss or the parameters became infinite or NaN."""


class DependencyError(HcjaxError, ImportError):
    """An optional package that is asked for is not installed, or of another release than needed."""


def plain(name: str) -> str:
    """Returns the letters and digits of a name, in lower case: how alike names are compared.

    Example:
      >>> plain("Batch-Size") == plain("batch_size")
      True
    """
    return re.sub(r"[\W_]", "", name).lower()


def nearest(name: str, legal: Iterable[str]) -> list[str]:
    """Returns the legal names that a wrong one may stand for, the likeliest first, at most three.

    The same letters and digits; else what the field calls it (the tables above); else those with
    the most letters in common, at least 0.7 of both, or that begin alike.

    Args:
      name: the wrong name.
      legal: names.

    Example:
      >>> nearest("LR", ["rms", "learning_rate"]), nearest("xy", ["rms"])
      (['learning_rate'], [])
      >>> nearest("resnet", ["nin", "resnet20"])
      ['resnet20']
    """
    legal, wanted = sorted(legal), plain(name)
    usual = [USUAL_KEYS.get(wanted, "").removesuffix(".name").rpartition(".")[2]]
    usual += [ours for ours, words in _NAMES.items() if wanted in words.split()]
    by_plain: dict[str, str] = {}
    for each in legal:
        by_plain.setdefault(plain(each), each)
    if wanted in by_plain:
        return [by_plain[wanted]]
    if known := [each for each in usual if each in legal]:
        return known[:3]
    likeness = {k: _alike(wanted, k) for k in by_plain}
    pool = [k for k in by_plain if likeness[k] >= _ALIKE or _begins(k, wanted)]
    best = max((likeness[k] for k in pool), default=0)
    pool = sorted((k for k in pool if likeness[k] >= best - 0.08), key=lambda k: -likeness[k])
    return [by_plain[k] for k in pool[:3]]


def _alike(one: str, other: str) -> float:
    """Returns the share of letters in common, in order; more for all in another order."""
    ratio = difflib.SequenceMatcher(None, one, other).ratio()
    if sorted(one) == sorted(other):
        return max(ratio, 0.9)
    return ratio + 0.1 * (one[:3] == other[:3])  # slips are seldom at the beginning


def _begins(one: str, other: str) -> bool:
    """Tells whether one name begins with the other, of three letters at least."""
    return min(len(one), len(other)) > 2 and (one.startswith(other) or other.startswith(one))


def unknown_name(what: str, name: str, legal: Iterable[str]) -> str:
    """Writes the error text for an unknown name: the nearest legal one first, then all of them.

    Args:
      what: the kind of thing that is named, e.g. `"model"`.
      name: the unknown name.
      legal: all legal names.

    Returns:
      One line of text.

    Example:
      >>> unknown_name("model", "lenet6", ["lenet5", "nin"])
      "unknown model 'lenet6'; did you mean 'lenet5'? Legal: lenet5, nin"
    """
    legal = sorted(legal)
    near = nearest(name, legal)
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    return f"unknown {what} '{name}'; {hint}Legal: {', '.join(legal)}"


def no_match(pattern: str, what: str, names: Sequence[str]) -> str:
    """Writes the error text for a regular expression that matches none of some names as a whole.

    Args:
      pattern: a regular expression.
      what: the kind of thing that is named, e.g. `"parameter"`.
      names: all names; the nearest eight are written.

    Returns:
      One line of text, with a pattern that does match where one is near.

    Example:
      >>> no_match("conv", "layer", ["conv1"])
      "'conv' matches no layer (it must match a whole name; 'conv.*' does); the layers are: conv1"
    """
    parts = [name for name in names if re.search(pattern, name)]
    wider = [form.format(pattern) for form in ("{}/.*", "{}.*", ".*{}", ".*{}.*")] if parts else []
    does = next((each for each in wider if any(re.fullmatch(each, name) for name in names)), None)
    letters = plain(re.sub(r"\\.|[.*+?]", "", pattern))
    order = parts or sorted(names, key=lambda name: -_alike(letters, plain(name)))
    near = [name for name in names if name in order[:8]]
    which = f"the {what}s" if len(near) == len(names) else f"the nearest of {len(names)} {what}s"
    hint = f"; {does!r} does" if does else ""
    return (
        f"{pattern!r} matches no {what} (it must match a whole name{hint}); {which} are: "
        f"{', '.join(near)}"
    )
