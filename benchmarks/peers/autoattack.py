"""Runs torchattacks' AutoAttack on the network and images that benchmarks/attacks.py has written.

Needs torch and torchattacks, not hcjax. Goes on from what is done: a file for each batch.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torchattacks
from torch import nn

BATCH = 250


class Network(nn.Module):
    """strided_cnn of pixels in 0..1, NCHW."""

    def __init__(self, arrays):
        super().__init__()
        self.mean, self.std = (
            torch.tensor(arrays[k]).reshape(1, -1, 1, 1) for k in ("mean", "std")
        )
        layers = sorted({path.split("/")[0] for path in arrays if "/" in path})
        self.layers = [
            [torch.tensor(arrays[f"{n}/{k}"]) for k in ("kernel", "bias")] for n in layers
        ]
        self.convs = sum("conv" in name for name in layers)

    def forward(self, x):
        x = (x - self.mean) / self.std
        for kernel, bias in self.layers[: self.convs]:
            x = torch.relu(nn.functional.conv2d(x, kernel.permute(3, 2, 0, 1), bias, 2, 1))
        x = x.permute(0, 2, 3, 1).flatten(1)
        for number, (kernel, bias) in enumerate(self.layers[self.convs :]):
            x = torch.relu(x) if number else x
            x = x @ kernel + bias
        return x


def main(folder):
    torch.set_num_threads(1)
    arrays = dict(np.load(folder / "case.npz"))
    facts = json.loads(str(arrays["facts"]))
    network = Network(arrays).eval()
    images = torch.tensor(arrays["images"]).permute(0, 3, 1, 2).contiguous()
    labels = torch.tensor(arrays["labels"]).long()
    norm = {"linf": "Linf", "l2": "L2"}[facts["norm"]]
    clean, left = [], []
    for start in range(0, len(labels), BATCH):
        x, y = images[start : start + BATCH], labels[start : start + BATCH]
        file = folder / f"theirs-{norm}-{facts['eps']:g}-{len(labels)}-{start}.npy"
        with torch.no_grad():
            clean.append((network(x).argmax(1) == y).numpy())
        if not file.exists():
            since = time.perf_counter()
            attack = torchattacks.AutoAttack(
                network, norm=norm, eps=facts["eps"], version="standard", n_classes=10, seed=0
            )
            moved = attack(x, y)
            with torch.no_grad():
                alive = (network(moved).argmax(1) == y).numpy()
            np.save(file, alive)
            print(
                f"batch {start}: {alive.mean():.4f} in {time.perf_counter() - since:.0f} s",
                flush=True,
            )
        left.append(np.load(file))
    with torch.no_grad():
        found = torch.tensor(arrays["found"]).permute(0, 3, 1, 2)
        erring = int((network(found).argmax(1) != labels).sum())
    np.savez(
        folder / "theirs.npz", clean=np.concatenate(clean), left=np.concatenate(left), erring=erring
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
