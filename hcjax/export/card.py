"""The model card of an export: README.md with the front matter that Hugging Face reads.

In: a manifest, whose facts are all that it says. Out: Markdown; its front matter is YAML whose
values are JSON, which YAML includes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from hcjax.core import formats
from hcjax.export.manifest import EXAMPLES, NAME, PROMISES

# task -> Hugging Face's word for it, of images; others have one of their own or none
_PIPELINES = {
    "classification": "image-classification",
    "multilabel": "image-classification",
    "segmentation": "image-segmentation",
    "detection": "object-detection",
    "embedding": "image-feature-extraction",
}
_OTHERS = {"rate": "audio-classification", "text": "text-classification"}
_USES = {
    "c": "compile it with any C11 compiler; network.h says how to call it",
    "onnx": "ONNX Runtime, or what else reads ONNX",
    "stablehlo": "`jax.export.deserialize(bytearray(data)).call(...)` in a process that has jax",
    "safetensors": "`safetensors.numpy.load_file(...)`, or the safetensors of your library",
    "hcz": "`hcjax.unpack(data)`",
}


def card(manifest: Mapping[str, Any]) -> bytes:
    """Returns the text of a model card.

    Args:
      manifest: of `manifest.describe`.
    """
    parts = [_front(manifest), _head(manifest), _inputs(manifest), _files(manifest), _run(manifest)]
    return ("\n".join(parts)).encode()


def _front(facts: Mapping[str, Any]) -> str:
    values: dict[str, Any] = {"library_name": "hcjax"}
    pipeline, data = _pipeline(facts), _data(facts)
    if pipeline:
        values["pipeline_tag"] = pipeline
    form = "int8" if facts["network"]["form"] == "integers" else "float32"
    runtimes = dict.fromkeys(each["runtime"] for each in facts["artifacts"])
    values["tags"] = ["hcjax", "jax", form, *(r for r in runtimes if r != "hcz")]
    if data:
        values["datasets"] = [data]
    if scores := facts["scores"]:
        values["metrics"] = [scores["score"]]
        result = {
            "task": {"type": pipeline or facts["task"]},
            "dataset": {"name": data or "test", "type": data or "test"},
            # of four digits: YAML takes 1e-05 for text
            "metrics": [{"type": scores["score"], "value": round(scores["value"], 4)}],
        }
        values["model-index"] = [{"name": facts["name"], "results": [result]}]
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
    return "\n".join(["---", *lines, "---", ""])


def _pipeline(facts: Mapping[str, Any]) -> str | None:
    known = facts["about"].get("inputs", {})
    if not known:
        image = len(facts["inputs"]) == 1 and len(facts["inputs"][0]["shape"]) == 4
        return _PIPELINES.get(facts["task"]) if image else None
    if facts["task"] == "regression":
        return "tabular-regression" if "text" not in known else None
    if facts["task"] != "classification":
        return None
    word = next((word for key, word in _OTHERS.items() if key in known), None)
    return word or "tabular-classification"


def _data(facts: Mapping[str, Any]) -> str | None:
    data = facts["about"].get("data", {})
    named = data.get("name") or data.get("source")
    return named if isinstance(named, str) else None


def _head(facts: Mapping[str, Any]) -> str:
    network, labels = facts["network"], facts["labels"]
    form = "in int8" if network["form"] == "integers" else "in float32"
    lines = [f"# {_escaped(facts['name'])}", ""]
    lines += [f"A network for {facts['task']}, {form}, exported by hcjax on {facts['made']}.", ""]
    rows = {
        "weights": f"{network['weights']:,}, of which {network['nonzeros']:,} are not 0",
        "multiply-accumulates": f"{network['macs']:,} an example",
    }
    if network["floats"]:
        rows["in float"] = f"{len(network['floats'])} ops"
    if scores := facts["scores"]:
        score = formats.label(scores["score"])
        value = formats.value(scores["score"], scores["value"])
        rows[score] = f"{value} on {scores['examples']:,} test examples of {scores['data']}"
    if labels:
        rows["classes"] = _escaped(f"{len(labels)}: {', '.join(labels[:10])}") + (
            ", …" if len(labels) > 10 else ""
        )
    return "\n".join([*lines, *_table(("", ""), rows.items()), ""])


def _inputs(facts: Mapping[str, Any]) -> str:
    lines = ["## Inputs and outputs", ""]
    rows = [
        (kind, f"`{each['name']}`", _shape(each))
        for kind, key in (("input", "inputs"), ("output", "outputs"))
        for each in facts[key]
    ]
    lines += [*_table(("", "name", "array"), rows), ""]
    if normalisation := facts["normalisation"]:
        numbers = {k: ", ".join(f"{x:.6g}" for x in v) for k, v in normalisation.items()}
        lines += [
            "Images are pixels in 0..1, then (pixel - mean) / std of each channel: mean "
            f"{numbers.get('mean', '0')}, std {numbers.get('std', '1')}.",
            "",
        ]
    if facts["about"].get("inputs"):
        lines += [f"How the inputs are made: `about.inputs` in `{NAME}`.", ""]
    return "\n".join(lines)


def _files(facts: Mapping[str, Any]) -> str:
    rows = [
        (
            f"`{each['file']}`",
            f"{facts['files'][each['file']]['bytes']:,}",
            each["what"],
            PROMISES[each["promise"]["kind"]][1].format(**each["promise"]),
            _USES.get(each["runtime"], each["runtime"]),
        )
        for each in facts["artifacts"]
    ]
    lines = ["## Files", "", *_table(("file", "bytes", "what", "promises", "run by"), rows), ""]
    lines += [
        f"`{EXAMPLES}` has inputs with the original's outputs, `{NAME}` all facts as JSON, with "
        "the sha256 of every file.",
        "",
    ]
    return "\n".join(lines)


def _run(facts: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    return "\n".join(
        [
            "## Check", "",
            "`python -m hcjax.verify THIS_FOLDER` runs every file in its own runtime and compares",
            "it with the original.", "",
            f"Made with {versions}.", "",
        ]
    )  # fmt: skip


def _shape(each: Mapping[str, Any]) -> str:
    sizes = ", ".join("N" if size is None else str(size) for size in each["shape"])
    return f"{each['dtype']}[{sizes}]"


def _table(head: tuple[str, ...], rows: Any) -> list[str]:
    lines = [head, ("---",) * len(head), *rows]
    return ["| " + " | ".join(map(str, line)) + " |" for line in lines]


def _escaped(text: str) -> str:
    """Returns a text that ends no cell of a table."""
    return " ".join(text.replace("|", "\\|").split())
