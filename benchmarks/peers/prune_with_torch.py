"""Torch-Pruning chooses filters of a ResNet of hcjax's: arrays in, kept channels out.

    python prune_with_torch.py ARRAYS.npz IMPORTANCE MACS

ARRAYS.npz: path -> array of parameters and statistics; images and labels, for the criteria that ask
for gradients: Taylor's are taken anew before every step, the Hessian's, image by image, once.
Prints one JSON object, block -> the indices of its inner channels that are left, when no more than
the fraction MACS of the products is.
"""

import json
import re
import sys
from importlib import metadata

import numpy as np
import torch
import torch_pruning
from torch import nn
from torch.nn.functional import cross_entropy
from with_torch import Block, Mean

IMPORTANCES = {
    "magnitude": lambda: torch_pruning.importance.GroupMagnitudeImportance(p=2),
    "magnitude, p 1": lambda: torch_pruning.importance.GroupMagnitudeImportance(p=1),
    "lamp": lambda: torch_pruning.importance.LAMPImportance(p=2),
    "fpgm": lambda: torch_pruning.importance.FPGMImportance(p=2),
    "bn scale": lambda: torch_pruning.importance.BNScaleImportance(),
    "taylor": lambda: torch_pruning.importance.GroupTaylorImportance(),
    "hessian": lambda: torch_pruning.importance.GroupHessianImportance(),
}


def network(arrays):
    """Returns (nn.Sequential with those arrays, block name -> module)."""

    def conv(path, stride=1):
        kernel = torch.from_numpy(arrays[f"{path}/kernel"].transpose(3, 2, 0, 1).copy())
        made = nn.Conv2d(kernel.shape[1], kernel.shape[0], 3, stride, 1, bias=False)
        made.weight.data = kernel
        return made

    def norm(path):
        made = nn.BatchNorm2d(len(arrays[f"{path}/scale"]))
        both = {"scale": made.weight.data, "bias": made.bias.data}
        both |= {"mean": made.running_mean, "variance": made.running_var}
        for name, theirs in both.items():
            theirs.copy_(torch.from_numpy(arrays[f"{path}/{name}"]))
        return made

    found = {re.match(r"stage\d+_block\d+", path) for path in arrays}
    names = sorted(match.group() for match in found if match)
    blocks, inputs = {}, len(arrays["stem/norm/scale"])
    for name in dict.fromkeys(names):
        outputs = len(arrays[f"{name}/norm2/scale"])
        block = Block(inputs, outputs, 1 if inputs == outputs else 2)
        block.conv1, block.norm1 = conv(f"{name}/conv1", block.stride), norm(f"{name}/norm1")
        block.conv2, block.norm2 = conv(f"{name}/conv2"), norm(f"{name}/norm2")
        blocks[name], inputs = block, outputs
    dense = nn.Linear(inputs, len(arrays["dense1/bias"]))
    dense.weight.data = torch.from_numpy(arrays["dense1/kernel"].T.copy())
    dense.bias.data = torch.from_numpy(arrays["dense1/bias"])
    stem = [conv("stem/conv"), norm("stem/norm"), nn.ReLU()]
    return nn.Sequential(*stem, *blocks.values(), Mean(), dense).eval(), blocks


def measure(criterion, model, images, labels):
    """Computes the gradients that a criterion scores by, as its documentation shows."""
    if isinstance(criterion, torch_pruning.importance.GroupHessianImportance):
        if all(p.grad is None for p in model.parameters()):  # they are pruned with the weights
            for image, label in zip(images, labels, strict=True):
                model.zero_grad()
                cross_entropy(model(image[None]), label[None]).backward()
                criterion.accumulate_grad(model)
    elif isinstance(criterion, torch_pruning.importance.GroupTaylorImportance):
        model.zero_grad()
        cross_entropy(model(images), labels).backward()


def main():
    """Prunes, and prints what is left."""
    path, importance, macs = sys.argv[1], sys.argv[2], float(sys.argv[3])
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    model, blocks = network(arrays)
    images, labels = (torch.from_numpy(arrays[name]) for name in ("images", "labels"))
    logits = model(images[:2]).detach()
    # it cannot follow the shortcuts, which pad channels with zeros (an IndexError): the channels
    # that they join stay as they are
    free = {block.conv1 for block in blocks.values()}
    kept = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear) and m not in free]
    criterion = IMPORTANCES[importance]()
    pruner = torch_pruning.pruner.BasePruner(
        model, images[:1], importance=criterion, global_pruning=True,
        pruning_ratio=0.95, iterative_steps=400, ignored_layers=kept,
    )  # fmt: skip
    left = {name: np.arange(block.conv1.out_channels) for name, block in blocks.items()}
    convs = {block.conv1: name for name, block in blocks.items()}
    count = torch_pruning.utils.count_ops_and_params
    whole = count(model, images[:1])[0]
    while count(model, images[:1])[0] > macs * whole:
        measure(criterion, model, images, labels)
        for group in pruner.step(interactive=True):
            target, indices = group[0].dep.target.module, group[0].idxs
            left[convs[target]] = np.delete(left[convs[target]], indices)
            group.prune()
    found = {name: indices.tolist() for name, indices in left.items()}
    print(
        json.dumps(
            {"logits": logits.tolist(), "kept": found, "version": metadata.version("torch-pruning")}
        )
    )


if __name__ == "__main__":
    main()
