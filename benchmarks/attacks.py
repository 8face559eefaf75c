"""Attacks one network by `hcjax.attack.auto` and by torchattacks' AutoAttack, and compares.

The network is strided_cnn on MNIST, of given weights, e.g. of configs/mnist_robust.py, or trained
here without attacks for one epoch. The peer runs in a Python of its own, with torch and
torchattacks: `python -m venv PEER && PEER/bin/pip install torch torchattacks`.

Usage: python benchmarks/attacks.py --peer=PEER/bin/python [--weights=FILE.npz] [--limit=1000]
       [--eps=0.3] [--norm=linf] [--path=FOLDER]
"""

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
import optax

import hcjax

PEER = Path(__file__).parent / "peers" / "autoattack.py"


def trained(data):
    """Returns the params of a network trained for an epoch, without attacks."""
    network = hcjax.models.create("strided_cnn")
    params, state = network.init(jax.random.key(0))
    done = hcjax.fit(
        network.apply, params, data, loss=hcjax.losses.cross_entropy, tx=optax.adam(2e-3),
        epochs=1, key=jax.random.key(1), state=state, quiet=True,
    )  # fmt: skip
    return done.params


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--peer", required=True)
    parser.add_argument("--weights")
    parser.add_argument("--limit", type=int, default=1000)
    parser.add_argument("--eps", type=float, default=0.3)
    parser.add_argument("--norm", default="linf", choices=("linf", "l2"))
    parser.add_argument("--path", help="folder that keeps what is done, to go on from")
    given = parser.parse_args()
    data = hcjax.data.load("mnist", validation=0)
    folder = Path(given.path or tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    if given.weights:
        flat, params = dict(np.load(given.weights)), {}
        for path, array in flat.items():
            layer, name = path.split("/")
            params.setdefault(layer, {})[name] = array
    else:
        params = trained(data)
    filters = [params[name]["kernel"].shape[-1] for name in sorted(params) if "conv" in name]
    network = hcjax.models.create(
        "strided_cnn", filters=filters, hidden=params["dense1"]["kernel"].shape[-1]
    )
    apply = lambda p, x: network.apply(p, {}, x, train=False, key=None)[0]  # noqa: E731
    started = time.perf_counter()
    ours = hcjax.attack.auto(
        (apply, params), data, eps=given.eps, norm=given.norm, limit=given.limit,
        path=folder / f"ours-{given.norm}-{given.limit}.npz",
    )  # fmt: skip
    print(f"{ours}\n{time.perf_counter() - started:.0f} s", flush=True)

    arrays = {f"{a}/{b}": np.asarray(v) for a, leaves in params.items() for b, v in leaves.items()}
    images = data.test.images[: given.limit].astype(np.float32) / 255
    facts = {"eps": given.eps, "norm": given.norm}
    np.savez(
        folder / "case.npz", images=images, labels=ours.labels, mean=data.mean, std=data.std,
        facts=json.dumps(facts), found=ours.inputs, **arrays,
    )  # fmt: skip
    started = time.perf_counter()
    subprocess.run([given.peer, str(PEER), str(folder)], check=True)
    theirs = np.load(folder / "theirs.npz")
    left = list(ours.survivors.values())[-1]
    print(
        f"torchattacks: clean {theirs['clean'].mean():.2%}, {theirs['left'].mean():.2%} survive, "
    )
    print(f"{time.perf_counter() - started:.0f} s; ours {left.mean():.2%}")
    print(f"survive only theirs: {np.flatnonzero(theirs['left'] & ~left).tolist()}")
    print(f"survive only ours: {np.flatnonzero(left & ~theirs['left']).tolist()}")
    print(f"of our perturbed inputs, torch's network errs on {int(theirs['erring'])}, "
          f"ours on {int((~left).sum())}")  # fmt: skip
    print(f"apart: {abs(int(left.sum()) - int(theirs['left'].sum()))} examples")


if __name__ == "__main__":
    main()
