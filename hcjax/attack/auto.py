"""`auto`: AutoAttack's four attacks, one after the other on whoever has survived so far."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from hcjax import trees
from hcjax.accelerate import compiler
from hcjax.attack import balls
from hcjax.attack.apgd import apgd, apgd_targeted
from hcjax.attack.fab import fab_targeted
from hcjax.attack.objectives import dlr
from hcjax.attack.record import Record
from hcjax.attack.square import square
from hcjax.attack.subject import batches, correct, examples, in_pixels
from hcjax.core import notebook, text
from hcjax.errors import ConfigError, unknown_name
from hcjax.graph.model import Model
from hcjax.report.progress import Progress

# name -> attack of (apply, params, inputs, labels, key, *, eps, norm, steps); the targeted: rank
ATTACKS: dict[str, Callable] = {
    "apgd-ce": apgd,
    "apgd-dlr": partial(apgd, loss=dlr),
    "apgd-t": apgd_targeted,
    "fab-t": fab_targeted,
    "square": square,
}
STANDARD = ("apgd-ce", "apgd-t", "fab-t", "square")
_STEPS = {"square": 5000}  # of the others 100
_TARGETED = ("apgd-t", "fab-t")
_TARGETS = 9  # classes that they try, at most


class Robustness(NamedTuple):
    """What the attacks left; printed as a table.

    eps, norm: of the ball. labels: int[N]. clean: bool[N], classified correctly. survivors: name of
    an attack -> bool[N], classified correctly after it and all before it. inputs: float32[N, ...]
    in 0..1, the inputs that err, and the others as they were. note: of whose gradients were used.
    """

    eps: float
    norm: str
    labels: np.ndarray
    clean: np.ndarray
    survivors: dict[str, np.ndarray]
    inputs: np.ndarray
    note: str = ""

    _repr_html_ = notebook.to_html
    to_csv = notebook.to_csv
    to_latex = notebook.to_latex

    @property
    def accuracy(self) -> float:
        """The share of examples that survived everything."""
        return float([self.clean, *self.survivors.values()][-1].mean())

    @property
    def clean_accuracy(self) -> float:
        """The share of examples that are classified correctly before any attack."""
        return float(self.clean.mean())

    @property
    def grid(self) -> notebook.Grid:
        """A row for each attack, in their order."""
        rows, last = [("none", "", f"{self.clean_accuracy:.2%}")], self.clean
        for name, left in self.survivors.items():
            rows.append((name, int(last.sum() - left.sum()), f"{left.mean():.2%}"))
            last = left
        note = f"; {self.note}" if self.note else ""
        caption = f"{self.norm} {self.eps:g}, {len(self.labels):,} examples{note}"
        return notebook.Grid(("attack", "newly misled", "accuracy"), rows, caption)

    def __repr__(self) -> str:
        head, rows, caption = self.grid
        return f"{caption}\n{text.table(rows, head)}"


def auto(
    model: Any,
    data: Any,
    *,
    eps: float,
    norm: str = "linf",
    attacks: Sequence[str] = STANDARD,
    steps: Mapping[str, int] | None = None,
    gradients: Any = None,
    key: jax.Array | None = None,
    limit: int | None = None,
    batch_size: int = 512,
    path: str | Path | None = None,
    quiet: bool = False,
) -> Robustness:
    """Attacks a network as AutoAttack's standard version does, and says who survives.

    APGD on cross-entropy, APGD on the targeted DLR loss, FAB-T and Square, each on the examples
    that are still classified correctly. An example counts as misled only if `model` itself errs on
    the perturbed input, and that lies within eps and 0..1.

    Args:
      model: Model, whose inputs are normalised by the data's mean and std; or a pair
        (apply, params), `apply(params, inputs) -> logits`, likewise.
      data: Dataset, whose test set is attacked; or (images, labels): uint8, or floats in 0..1.
      eps: radius >= 0, where a pixel is 0..1.
      norm: "linf" or "l2".
      attacks: names in `ATTACKS`, in order.
      steps: name -> steps in place of 100, of Square 5,000.
      gradients: Model or pair that attacks take gradients of, in place of the model's own: of an
        integer network, which has none, the one from `fake_quantize` that it was made of. Square
        asks the model itself.
      key: PRNG key; None for key 0.
      limit: attack that many examples, the first; None for all.
      batch_size: examples at a time, >= 1.
      path: file of what is done so far, written after every batch; an interrupted run with the same
        arguments goes on from it. None keeps none.
      quiet: show no progress.

    Returns:
      Robustness.

    Raises:
      ConfigError: if an argument is illegal, or the model is in integers and `gradients` is not
        given.
      DataError: if the images or labels cannot be used.
      CheckpointError: if the file holds other attacks, or cannot be written.

    Note:
      A survivor is no proof: see `hcjax.prove` for bounds. Networks in integers round, which hides
      gradients: judge them by white-box attacks on their straight-through twin and by Square, both
      of which the table shows.

    Reference:
      Croce and Hein, 2020, arXiv:2003.01690, section 6. Deviation: a targeted attack tries its
      next class on all survivors at once, not batch by batch.

    Example:
      >>> net = lambda p, x: x.reshape(len(x), -1) @ p
      >>> w, x = np.eye(4), np.eye(4, dtype=np.float32).reshape(4, 2, 2, 1)
      >>> auto((net, w), (x, range(4)), eps=0.6, attacks=["apgd-ce"], quiet=True).accuracy
      0.0
    """
    balls.check(eps, norm)
    for name in attacks:
        if name not in ATTACKS:
            raise ConfigError(unknown_name("attack", str(name), ATTACKS))
    if batch_size < 1:
        raise ConfigError(f"batch_size must be >= 1, got {batch_size}")
    pixels, labels, mean, std = examples(model, data, limit)
    network, params = in_pixels(model, mean, std)
    asked = {name: (network, params) for name in attacks}
    if gradients is not None:
        twin = in_pixels(gradients, mean, std)
        asked |= {name: twin for name in attacks if name != "square"}
    elif isinstance(model, Model) and set(attacks) - {"square"}:
        _check_differentiable(model)
    counts = {name: (steps or {}).get(name, _STEPS.get(name, 100)) for name in attacks}
    classes = jax.eval_shape(network, params, pixels[:1]).shape[-1]
    targets = min(_TARGETS, classes - 1)
    stages = [(n, rank) for n in attacks for rank in range(targets if n in _TARGETED else 1)]
    key = jax.random.key(0) if key is None else key
    right = correct(network, params, batch_size)
    identity = {
        "eps": eps, "norm": norm, "attacks": list(attacks), "steps": counts,
        "batch_size": batch_size, "key": np.asarray(jax.random.key_data(key)),
        "examples": trees.sha256({"pixels": pixels, "labels": labels}),
        "networks": [trees.sha256(dict(enumerate(jax.tree.leaves(p)))) for _, p in asked.values()],
    }  # fmt: skip
    record = Record(right(pixels, labels), pixels, identity, path)
    work = [counts[name] * (1 if name == "square" else 3) * len(labels) for name, _ in stages]
    programs = {
        name: compiler.jit(
            partial(_perturb, name, asked[name][0], eps=eps, norm=norm, steps=counts[name])
        )
        for name in attacks
    }
    words = {"quiet": quiet, "label": f"{norm} {eps:g}", "initial": sum(work[: record.stage])}
    with Progress(sum(work), unit="queries", **words) as progress:
        for number in range(record.stage, len(stages)):
            name, rank = stages[number]
            record.begin(name)
            parts = batches(np.flatnonzero(record.began), batch_size)
            for batch in range(record.batch, len(parts)):
                chosen, some = parts[batch]
                own = jax.random.fold_in(jax.random.fold_in(key, number), batch)
                moved = programs[name](asked[name][1], pixels[some], labels[some], own, rank)
                moved = np.asarray(moved)[: len(chosen)]
                within = _within(moved, pixels[chosen], eps, norm)
                record.add(chosen, moved, within & ~right(moved, labels[chosen]))
                share = (batch + 1) / len(parts)
                done = int(sum(work[:number]) + share * work[number])
                progress.update(done, accuracy=record.survivors.mean())
            record.end()
    note = "" if gradients is None else "gradients are those of a twin, logits the network's own"
    return Robustness(eps, norm, labels, record.clean, record.after, record.inputs, note)


def _perturb(name: str, network: Callable, params, x, labels, key, rank, **options) -> jax.Array:
    """Runs an attack by its name, the rank of its target given if it has one."""
    if name in _TARGETED:
        options["rank"] = rank
    return ATTACKS[name](network, params, x, labels, key, **options)


def _within(moved: np.ndarray, pixels: np.ndarray, eps: float, norm: str) -> np.ndarray:
    """Returns bool[N]: which points lie in the ball and in 0..1, up to float32's rounding."""
    delta = (moved.astype(np.float64) - pixels).reshape(len(moved), -1)
    flat = moved.reshape(len(moved), -1)
    length = np.abs(delta).max(-1) if norm == "linf" else np.sqrt(np.square(delta).sum(-1))
    return (length <= eps * (1 + 1e-6) + 1e-7) & (flat >= 0).all(-1) & (flat <= 1).all(-1)


def _check_differentiable(model: Model) -> None:
    """Raises ConfigError for a network in integers: its gradient is 0 everywhere."""
    if any(op.kind == "quantize" for op in model.graph.ops):
        raise ConfigError(
            "the network computes in integers, which have no gradient: give gradients= the Model "
            "from fake_quantize that it was made of, or attacks=('square',)"
        )
