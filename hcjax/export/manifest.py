"""`manifest.json`: all that is known of an exported network, and what each of its files promises.

In: a Model and the files that were made of it. Out: JSON, with the sha256 of every file and of
itself, which `read` checks. Its keys are in docs/export.md.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hcjax.core import brief, files
from hcjax.devices import environment
from hcjax.errors import ArtifactError, HcjaxError
from hcjax.export import examples
from hcjax.export.hcz import interfaces
from hcjax.graph import interface
from hcjax.graph.cost import cost, kernels
from hcjax.graph.model import Model, in_integers
from hcjax.version import VERSION

NAME, EXAMPLES, CARD = "manifest.json", "examples.npz", "README.md"
FORMAT = "hcjax export 1"
PACKAGES = ("python", "jax", "jaxlib", "numpy")
EQUAL = {"kind": "equal"}
CLOSE = {"kind": "close", "tolerance": 1e-5}
# kind of promise -> its numbers, and what it says of an artifact's outputs, beside the original's;
# the range is that from the least to the greatest of them
PROMISES = {
    "equal": ((), "the same bits as the original"),
    "close": (("tolerance",), "within {tolerance:g} of the range"),
    "argmax": (("share",), "the same class for {share:.0%} of the examples"),
}


class Artifact(NamedTuple):
    """A file that something runs, or reads.

    file: its name. runtime: what runs it, a key of `hcjax.export.runtimes.RUNTIMES`. promise:
    {"kind": a key of `PROMISES`, and its numbers}. what: it is, for people. batch: examples of
    every call; None for any number.
    """

    file: str
    runtime: str
    promise: Mapping[str, Any]
    what: str
    batch: int | None = None

    __repr__ = brief.record


def promised(promise: Mapping[str, Any]) -> str:
    """Says a promise in words.

    Example:
      >>> promised({"kind": "argmax", "share": 0.99})
      'the same class for 99% of the examples'
    """
    return PROMISES[promise["kind"]][1].format(**promise)


def describe(
    model: Model,
    artifacts: Iterable[Artifact],
    content: Mapping[str, bytes],
    *,
    name: str,
    made: str,
    scores: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Returns the manifest of a network's files.

    Args:
      model: in float or in integers, whose `about` says what else is known of it.
      artifacts: those that something runs.
      content: name -> bytes of every file beside the manifest.
      name: of the network.
      made: date, as "2026-12-31".
      scores: {"score": its name, "value", "examples", "data"} on a test set; None: not known.
    """
    about = model.about or {}
    weights, nonzeros, _ = kernels(model)
    normalisation = {key: about[key] for key in ("mean", "std") if key in about}
    versions = environment.versions()
    described = {
        "format": FORMAT,
        "name": name,
        "made": made,
        "task": about.get("task", "classification"),
        "inputs": _leaves(model.inputs, "images"),
        "outputs": _leaves(model.outputs, "logits"),
        "trees": {
            "inputs": interfaces.places(model.inputs),
            "outputs": interfaces.places(model.outputs),
        },
        "normalisation": normalisation or None,
        "labels": about.get("class_names"),
        "network": {
            "form": "integers" if in_integers(model) else "float",
            "floats": list(model.floats),
            "weights": weights,
            "nonzeros": nonzeros,
            "macs": cost(model).macs,
        },
        "scores": dict(scores) if scores else None,
        "artifacts": [artifact._asdict() for artifact in artifacts],
        "files": {file: _sums(data) for file, data in sorted(content.items())},
        "examples": EXAMPLES,
        "about": about,
        "versions": {k: versions[k] for k in PACKAGES if k in versions} | {"hcjax": VERSION},
    }
    described = files.jsonable(described)
    return described | {"sha256": _own(described)}


def text(manifest: Mapping[str, Any]) -> bytes:
    """Returns the content of the file."""
    return (json.dumps(manifest, indent=2, ensure_ascii=False) + "\n").encode()


def is_export(folder: str | Path) -> bool:
    """Tells whether a folder has a manifest, whatever is in it."""
    return (Path(folder).expanduser() / NAME).is_file()


def read(folder: str | Path) -> dict[str, Any]:
    """Returns the manifest of a folder, once it is what `describe` has made.

    Raises:
      ArtifactError: if it is missing, damaged or another program's. The files beside it are checked
        by `problem`.
    """
    path = Path(folder).expanduser() / NAME
    try:
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise ArtifactError(f"{path}: {error.strerror}; expected an export's folder") from error
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} is damaged: {error}; export again") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        said = found.get("format") if isinstance(found, dict) else found
        raise ArtifactError(f"{path} is no manifest of '{FORMAT}', its format is {said!r:.60}")
    if found.get("sha256") != _own({k: v for k, v in found.items() if k != "sha256"}):
        raise ArtifactError(
            f"{path} was changed or damaged: its sha256 is another; export again (the model card "
            f"{CARD} may be edited)"
        )
    try:
        _check(found)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ArtifactError(f"{path} lacks what a manifest has: {error!r:.100}") from error
    return found


def content(folder: str | Path, manifest: Mapping[str, Any], name: str) -> bytes:
    """Returns the bytes of a file of a folder, if they are those that were written.

    Raises:
      ArtifactError: if it is missing or has another sha256.
    """
    path = Path(folder).expanduser() / name
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path}: {error.strerror}; export again") from error
    expected = manifest["files"][name]
    if _sums(data) != expected:
        raise ArtifactError(
            f"{path} was changed or damaged: expected {expected['bytes']:,} bytes of sha256 "
            f"{expected['sha256'][:12]}…, found {len(data):,} of {_sums(data)['sha256'][:12]}…"
        )
    return data


def dtypes(manifest: Mapping[str, Any]) -> list[dict[str, str]]:
    """Returns {name: dtype} of the inputs, and of the outputs."""
    return [{x["name"]: x["dtype"] for x in manifest[key]} for key in ("inputs", "outputs")]


def leaves(manifest: Mapping[str, Any], key: str) -> list[interface.Leaf]:
    """Returns the flat inputs or outputs of an export, by the key of its manifest."""
    return [
        interface.Leaf(
            tuple(n for n in x["shape"] if n is not None), jnp.dtype(x["dtype"]), None in x["shape"]
        )
        for x in manifest[key]
    ]


def _check(manifest: dict) -> None:
    """Raises one of many errors unless a manifest has the parts that are read here."""
    names = [*manifest["files"], *(each["file"] for each in manifest["artifacts"])]
    for name in names:
        if Path(name).name != name or name in ("", ".", ".."):
            raise ArtifactError(f"{name!r} is no name of a file")
    for each in manifest["artifacts"]:
        artifact = Artifact(**each)
        numbers, _ = PROMISES[artifact.promise["kind"]]
        if artifact.file not in manifest["files"] or set(artifact.promise) != {"kind", *numbers}:
            raise ArtifactError(f"{artifact.file!r} is described by halves")
    for key in ("inputs", "outputs"):
        for each in manifest[key]:
            jnp.dtype(each["dtype"]), list(each["shape"]), str(each["name"])
        interfaces.tree_of(manifest["trees"][key])
    manifest["files"][manifest["examples"]]


def _leaves(tree: Any, alone: str) -> list[dict[str, Any]]:
    """Returns name, shape and dtype of each array; a size that is null is that of the batch."""
    leaves = jax.tree.leaves(tree)
    return [
        {"name": name, "shape": list(leaf.sizes(None)), "dtype": np.dtype(leaf.dtype).name}
        for name, leaf in zip(interface.names(tree, alone), leaves, strict=True)
    ]


def _sums(data: bytes) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def _own(manifest: Mapping[str, Any]) -> str:
    """Hashes a manifest's other entries, however they are laid out."""
    plain = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(plain.encode()).hexdigest()


def of_examples(folder: str | Path, manifest: Mapping[str, Any]) -> examples.Examples:
    """Returns the examples of a folder.

    Raises:
      ArtifactError: if their file is missing or damaged.
    """
    name = manifest["examples"]
    try:
        return examples.decode(content(folder, manifest, name), dtypes(manifest))
    except HcjaxError as error:
        text = str(error)
        path = Path(folder).expanduser() / name
        raise ArtifactError(text if str(path) in text else f"{path}: {text}") from error
