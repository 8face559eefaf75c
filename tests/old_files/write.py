"""Writes the files of this folder with the code that is installed: see README.md.

    python tests/old_files/write.py FOLDER

In: the code of the commit that README.md names. Out: packed networks, workdirs of runs that were
stopped before their end, and what they give: `expected.npz` and `expected.json`. The flags and
`fitted` are also how `tests/test_old_files.py` goes on with these workdirs.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optax

import hcjax

ROOT = Path(__file__).resolve().parents[2]
DATA = {"source": "mnist", "limit": 256, "validation": 64}
SHOWN = 8  # test images whose logits are kept
STEPS = 16  # of every training
SPARSITY = 0.8

# A network that is trained by a config, with what a resume must bring back on different steps.
PLAIN = {
    "data.limit": DATA["limit"],
    "data.validation": DATA["validation"],
    "cache_dir": "off",
    "model.name": "seed_cnn_tiny",
    "optim.learning_rate": 0.01,
    "train.batch_size": 32,
    "train.epochs": 2,
    "train.eval_every": 3,
    "train.log_every": 2,
    "train.checkpoint_every": 4,
    "train.keep": 1,
}
# The same, pruned, and trained in 5 bits.
STAGED = PLAIN | {
    "stages": "('prune','quantize')",
    "prune.sparsity": SPARSITY,
    "prune.epochs": 1,
    "quantize.bits": 5,
    "quantize.epochs": 2,
    "quantize.images": 32,
}
# workdir -> (folder of the training in it that was stopped, the step that was its last)
STOPPED = {
    "plain": ("plain", 7),
    "movement": ("movement", 9),
    "staged": ("staged/quantized-trained", 7),
}


def data() -> hcjax.data.Dataset:
    """Returns the images that everything here was trained on: a slice of MNIST."""
    return hcjax.data.load(**DATA)


def flags(changes: dict[str, Any]) -> list[str]:
    """Returns the flags of launch.py for a config that differs from the default in some keys."""
    keys = [f"--config.{key}={value}" for key, value in changes.items()]
    return [f"--config={ROOT / 'configs' / 'default.py'}", *keys, "--quiet"]


def network() -> Any:
    """Returns the network that `fitted` trains."""
    return hcjax.models.create("mlp_tiny", input_shape=(28, 28, 1))


def fitted(workdir: Path) -> Any:
    """Returns what `fit` makes of a network, as a notebook would: movement pruning and an average.

    Args:
      workdir: a run found there is gone on with.
    """
    import jax

    params, state = network().init(jax.random.key(0))
    return hcjax.fit(
        network().apply,
        params,
        data(),
        state=state,
        loss=hcjax.losses.cross_entropy,
        tx=hcjax.prune.movement(optax.adam(0.01), SPARSITY, begin=2, end=14, every=2),
        steps=STEPS,
        batch_size=32,
        key=jax.random.key(1),
        ema_decay=0.8,
        eval_every=3,
        log_every=2,
        checkpoint_every=4,
        keep=1,
        workdir=workdir,
        quiet=True,
    )


def logits(model: Any, images: Any) -> np.ndarray:
    """Returns the logits of a Model for uint8 images, normalised as `about` says."""
    import jax

    mean, std = (np.asarray(model.about[key], np.float32) for key in ("mean", "std"))
    x = (images.astype(np.float32) / 255 - mean) / std
    return np.asarray(jax.jit(model.apply)(model.params, x))


def accuracy(model: Any) -> float:
    """Returns the accuracy of a Model on the test images, counted here."""
    test = data().test
    return float((logits(model, test.images).argmax(1) == test.labels).mean())


def kernel_zeros(tree: Any) -> int:
    """Returns how many weights of a tree's kernels are zero."""
    kernels = [leaf for path, leaf in hcjax.trees.paths(tree) if hcjax.trees.kernels(path, leaf)]
    return sum(int((np.asarray(leaf) == 0).sum()) for leaf in kernels)


def lines(workdir: Path) -> str:
    """Returns step and split of each line of a run's metrics."""
    text = (workdir / "metrics.jsonl").read_text()
    found = map(json.loads, text.splitlines())
    return ", ".join(f"{line['step']} {line['split']}" for line in found)


def main() -> None:
    """Writes everything into the folder that the command line names."""
    folder = Path(sys.argv[1]).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)  # so that no file names a place on this machine
    arrays: dict[str, np.ndarray] = {"images": data().test.images[:SHOWN]}
    facts: dict[str, Any] = {}
    for part in (_write_files, _write_plain, _write_movement, _write_staged):
        part(arrays, facts)
    for path in [*Path().rglob("*.png"), *Path().rglob(".lock")]:
        path.unlink()
    for path in list(Path().rglob("tensorboard")):
        shutil.rmtree(path)  # its files' names are of this machine
    for path in Path().rglob("commit_success.txt"):  # of Orbax: that it is there is what counts
        path.write_text(path.read_text().replace(f"{folder}/", ""))
    np.savez_compressed("expected.npz", **arrays)
    Path("expected.json").write_text(json.dumps(facts, indent=2) + "\n")


def _write_files(arrays: dict, facts: dict) -> None:
    """Writes a ResNet with its BatchNorm folded: in float, 8 bits, pruned, 4 bits and shared."""
    folded = _resnet()
    x = (data().train.images[:64].astype(np.float32) / 255 - data().mean) / data().std
    masks = hcjax.prune.masks(folded.params, sparsity=0.55)
    pruned = folded.replace(params=hcjax.prune.apply(masks, folded.params))
    made = {
        "folded": folded,
        "int8": hcjax.int8(folded, hcjax.calibrate(folded, x)),
        "pruned": pruned,
        "pruned_int4": hcjax.int8(pruned, hcjax.calibrate(pruned, x), bits=4),
        "shared": hcjax.share(folded, clusters=16),
    }
    about = {"class_names": list(data().class_names), "data": DATA, "seed": 0}
    about |= {"mean": data().mean.tolist(), "std": data().std.tolist()}
    for name, model in made.items():
        Path(f"{name}.hcz").write_bytes(hcjax.pack(model, about=about))
        model = hcjax.load_any(f"{name}.hcz")[0]
        arrays[f"{name}.hcz"] = logits(model, arrays["images"])
        facts[f"{name}.hcz"] = {
            "accuracy": accuracy(model),
            "parameters": hcjax.cost(model).parameters,
        }


def _resnet() -> hcjax.Model:
    """Returns a small ResNet that was trained for a few seconds, folded."""
    import jax

    init, apply = hcjax.models.create("resnet_tiny", norm_momentum=0.8)
    params, state = init(jax.random.key(0))
    loss, tx = hcjax.losses.cross_entropy, optax.adam(0.01)
    options = {"steps": 120, "batch_size": 32, "key": jax.random.key(1), "quiet": True}
    done = hcjax.fit(apply, params, data(), state=state, loss=loss, tx=tx, **options)
    apply = hcjax.inference(apply, done.state)
    return hcjax.fold(hcjax.trace(apply, done.params, np.ones((1, 28, 28, 1), np.float32)))


def _write_plain(arrays: dict, facts: dict) -> None:
    """Writes the workdir of a run that a config describes."""
    with _stopped_in("plain"):
        _launch(PLAIN, "plain")
    arrays["plain, stopped"] = np.asarray(hcjax.load("plain")(arrays["images"]))
    with _copy("plain") as whole:
        _launch(PLAIN, whole)
        arrays["plain, ended"] = np.asarray(hcjax.load(whole)(arrays["images"]))
        report = json.loads((whole / "report.json").read_text())
        facts["plain"] = {"accuracy": report["test_accuracy"], "lines": lines(whole)}


def _write_movement(arrays: dict, facts: dict) -> None:
    """Writes the workdir of a call of `fit`."""
    apply, path = network().apply, Path("movement")
    with _stopped_in("movement"):
        fitted(path)
    arrays["movement, stopped"] = np.asarray(hcjax.load(path, apply=apply)(arrays["images"]))
    with _copy("movement") as whole:
        done = fitted(whole)
        arrays["movement, ended"] = np.asarray(hcjax.load(whole, apply=apply)(arrays["images"]))
        zeros = kernel_zeros(done.train_state.params)
        facts["movement"] = {"zeros": zeros, "lines": lines(whole)}


def _write_staged(arrays: dict, facts: dict) -> None:
    """Writes the workdir of a config with stages, the last of which was stopped."""
    with _stopped_in("staged"):
        _launch(STAGED, "staged")
    with _copy("staged") as whole:
        _launch(STAGED, whole)
        facts["staged"] = {"lines": lines(whole / "quantized-trained"), "stages": {}}
        for path in sorted(whole.glob("*.hcz")):
            model = hcjax.load_any(path)[0]
            arrays[f"staged/{path.name}"] = logits(model, arrays["images"])
            facts["staged"]["stages"][path.name] = accuracy(model)


def _launch(changes: dict[str, Any], workdir: str | Path) -> None:
    """Runs the command line in this process, as if it had been typed beside launch.py."""
    from hcjax import cli

    sys.argv = ["launch.py", *flags(changes), f"--workdir={workdir}"]
    typed = list(sys.argv)
    sys.argv[1] = "--config=configs/default.py"  # what run.json keeps
    if cli.main(typed):
        raise RuntimeError(f"{' '.join(typed)}: failed")


@contextlib.contextmanager
def _stopped_in(name: str) -> Iterator[None]:
    """Sends SIGTERM to this process after the step that `STOPPED` says, in that training."""
    from hcjax.training import session

    folder, last = STOPPED[name]
    add = session.Session.add

    def interrupted(self, *args):
        add(self, *args)
        if self.step == last and Path(folder).exists():
            signal.raise_signal(signal.SIGTERM)

    session.Session.add = interrupted
    try:
        yield
    finally:
        session.Session.add = add


@contextlib.contextmanager
def _copy(name: str) -> Iterator[Path]:
    """Gives a copy of a workdir, to go on in; it is removed."""
    whole = Path(f"{name}-whole")
    shutil.copytree(name, whole)
    try:
        yield whole
    finally:
        shutil.rmtree(whole)


if __name__ == "__main__":
    main()
