"""Compares what two checkouts compute and write, on this machine and this Python.

    python benchmarks/golden.py                          e3da251 beside this checkout; 9 minutes
    python benchmarks/golden.py --before PATH            another checkout beside this one
    python benchmarks/golden.py --only lenet,keys        facts whose group is named so
    python benchmarks/golden.py --quick                  a smoke test of less than a minute

In: two checkouts. Out: a table of facts of both, each equal or DIFFERENT; the exit code is 1 if any
differs or could not be found. Facts are the sha256 of the parameters after 200 steps, on one device
and on two; of the files and the logits of every network of the tests, in float, folded, in integers
and pruned; and of the keys of every JSON file that is written. They are compared with each other,
never with stored ones: other machines and versions of jax have other bits.

Only public names are used, so checkouts may differ in where their code is.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import hashlib
import importlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
import types
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BEFORE = "e3da251"  # the commit that this checkout is compared with unless --before says another
SMOKE = ("linen", "dense")  # networks of --quick

FORMS = ("float", "folded", "int8", "pruned", "shared", "pruned, 4 bits")  # of a network

# what one unit of work finds: name -> {"sha256": ..., and for keys: "keys": [...]}
Facts = dict[str, dict[str, Any]]

# config -> changes, with which it takes 20 steps an epoch
TRAININGS: dict[str, dict[str, Any]] = {
    "lenet": {"data.limit": 1280, "train.batch_size": 64},
    "mnist_cnn": {
        "data.limit": 1280,
        "data.validation": 128,
        "train.batch_size": 64,
        "train.patience": None,  # all steps
    },
    "resnet20": {
        "data.source": "mnist",
        "data.path": None,
        "data.limit": 640,
        "model.width": 4,
        "train.batch_size": 32,
    },
}
# a run of a few seconds, for the keys of what it writes
TINY = {
    "data.limit": 64,
    "data.validation": 32,
    "model.name": "seed_cnn_tiny",
    "train.batch_size": 16,
    "train.epochs": 0.5,
}
STAGES = {
    "stages": "('prune','trim','quantize')",
    "prune.sparsity": 0.75,
    "prune.epochs": 0.5,
    "quantize.bits": 5,
    "quantize.epochs": 0.5,
    "quantize.images": 16,
}


def main() -> int:
    """Returns the exit code of the command line."""
    args = _arguments()
    if args.facts:
        return _write_facts(args)
    with checkout(args.before) as before:
        found = {
            name: facts_of(path, networks_of=before, label=name, only=args.only, quick=args.quick)
            for name, path in (("before", before), ("after", args.after.resolve()))
        }
    return compare(found["before"], found["after"])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--before", type=Path, help=f"a checkout; by default one of {BEFORE}")
    parser.add_argument("--after", type=Path, default=ROOT, help="a checkout; by default this one")
    parser.add_argument("--only", default="", help="parts of names of groups, comma-separated")
    parser.add_argument("--quick", action="store_true", help="a smoke test of few steps")
    for name in ("facts", "networks-of"):  # of the process that finds the facts of one checkout
        parser.add_argument(f"--{name}", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--label", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


@contextlib.contextmanager
def checkout(path: Path | None) -> Iterator[Path]:
    """Gives a checkout's folder: the given one, or a temporary one of `BEFORE`."""
    if path is not None:
        if not (path / "launch.py").exists():
            sys.exit(f"--before {path}: expected a checkout with launch.py in it, found none")
        yield path.resolve()
        return
    git = ["git", "-C", str(ROOT), "worktree"]
    with tempfile.TemporaryDirectory(prefix="hcjax-golden-") as folder:
        place = Path(folder).resolve() / "before"
        subprocess.run([*git, "add", "--quiet", "--detach", str(place), BEFORE], check=True)
        try:
            yield place
        finally:
            subprocess.run([*git, "remove", "--force", str(place)], check=True)


def facts_of(path: Path, *, networks_of: Path, label: str, only: str, quick: bool) -> Facts:
    """Returns the facts of a checkout, found by this script in a process of its own.

    Args:
      path: of the checkout.
      networks_of: the checkout whose tests' networks are taken, if they need public names only.
      label: of progress lines.
      only, quick: as on the command line.
    """
    if needs_internals(networks_file(networks_of)):
        networks_of = path
    with tempfile.TemporaryDirectory(prefix="hcjax-golden-") as folder:
        file = Path(folder) / "facts.json"
        # -P: the folder of this script, which has a networks.py too, is not searched for modules
        command = [sys.executable, "-P", __file__, f"--facts={file}", f"--label={label}"]
        command += [f"--networks-of={networks_of}", f"--only={only}"] + ["--quick"] * quick
        subprocess.run(command, cwd=path, env=environment(path), check=True)
        return json.loads(file.read_text())


def environment(path: Path, *, devices: int = 1) -> dict[str, str]:
    """Returns the environment in which a program imports a checkout's own hcjax.

    Args:
      path: of the checkout.
      devices: CPU devices that it sees.
    """
    given = os.environ
    flags = f"{given.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    places = [str(path), *filter(None, [given.get("PYTHONPATH")])]
    return given | {
        "PYTHONPATH": os.pathsep.join(places),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": flags.strip(),
    }


def networks_file(path: Path) -> Path:
    """Returns the file of a checkout that defines the networks of its tests."""
    usual = path / "tests" / "graph" / "networks.py"
    found = [usual, *sorted((path / "tests").rglob("networks.py"))]
    file = next((file for file in found if file.exists()), None)
    if file is None:
        sys.exit(f"{path}: expected a file networks.py below tests, found none")
    return file


def needs_internals(file: Path) -> bool:
    """Returns whether a file imports modules of hcjax that its users need not know."""
    names = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            names.append(node.module or "")
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return any(name.startswith("hcjax.") for name in names)


def compare(before: Facts, after: Facts) -> int:
    """Prints the facts of both side by side; returns 1 if any of them differs, else 0."""
    names = list(before | after)
    width = max(map(len, names), default=4)
    wrong = []
    print(f"\n{'fact':{width}}  {'before':16}  {'after':16}")
    for name in names:
        both = [facts.get(name, {"sha256": "missing"}) for facts in (before, after)]
        failed = any("failed" in fact for fact in both)
        same = not failed and both[0]["sha256"] == both[1]["sha256"]
        shown = [fact.get("sha256", "failed")[:16] for fact in both]
        result = "equal" if same else "FAILED" if failed else "DIFFERENT"
        print(f"{name:{width}}  {shown[0]:16}  {shown[1]:16}  {result}")
        if not same:
            wrong.append(name)
            print("".join(f"    {line}\n" for line in _why(*both)), end="")
    print(f"\n{len(names) - len(wrong)} of {len(names)} facts are equal")
    if not names:
        print("no group has a name with a part that --only gives")
    return int(bool(wrong) or not names)


def _why(before: dict, after: dict) -> list[str]:
    """Returns lines that say how a fact differs, or why it was not found."""
    lines = [f"{fact['failed']}" for fact in (before, after) if "failed" in fact]
    old, new = set(before.get("keys", ())), set(after.get("keys", ()))
    if old and new:
        lines += [f"only before: {key}" for key in sorted(old - new)]
        lines += [f"only after: {key}" for key in sorted(new - old)]
    return lines


# --- below: the process that finds the facts of one checkout, the one in the working directory ---


def _write_facts(args: argparse.Namespace) -> int:
    """Finds the facts of the checkout in the working directory and writes them as JSON."""
    import hcjax

    if Path(hcjax.__file__).resolve().parents[1] != Path.cwd():
        sys.exit(f"expected the hcjax of {Path.cwd()}, found {hcjax.__file__}; see PYTHONPATH")
    found: Facts = {}
    with tempfile.TemporaryDirectory(prefix="hcjax-golden-") as folder:
        units = _units(Path(folder), args.networks_of, args.quick)
        parts = args.only.split(",")
        chosen = {n: unit for n, unit in units.items() if any(part in n for part in parts)}
        for count, (name, unit) in enumerate(chosen.items(), 1):
            began = time.perf_counter()
            try:
                found |= unit()
            except Exception as error:  # one that fails must not hide the others
                found[name] = {"failed": f"{type(error).__name__}: {error}"}
            seconds = time.perf_counter() - began
            line = f"{args.label} {count}/{len(chosen)} {name}: {seconds:.1f} s"
            print(line, file=sys.stderr, flush=True)
    args.facts.write_text(json.dumps(found))
    return 0


def _units(folder: Path, networks_of: Path, quick: bool) -> dict[str, Callable[[], Facts]]:
    """Returns what finds facts, by the name of its group."""
    networks = _networks(networks_of)
    if quick:
        networks = {name: networks[name] for name in SMOKE if name in networks}
    forms = FORMS[: 3 if quick else None]
    units = {
        f"network {name}": partial(_network, name, *made, forms) for name, made in networks.items()
    }
    steps = 4 if quick else 200
    for name in list(TRAININGS)[: 1 if quick else None]:
        for devices in (1,) if quick else (1, 2):
            unit = partial(_training, folder, name, devices=devices, steps=steps)
            units[f"training {name}, {devices} device{'s' * (devices > 1)}"] = unit
    if quick:
        return units
    units |= {
        "keys of a run": partial(_tiny_keys, folder),
        "keys of stages": partial(_staged_keys, folder),
    }
    units |= {
        "keys of seeds": partial(_seeds_keys, folder),
        "keys of a sweep": partial(_sweep_keys, folder),
    }
    if importlib.util.find_spec("libtpu"):
        units["keys of a plan"] = partial(_plan_keys, folder)
    else:
        print("keys of plan.json are left out: libtpu is not installed", file=sys.stderr)
    return units


def _networks(networks_of: Path) -> dict[str, tuple[Callable, str]]:
    """Returns (function that makes (apply, params, image), frozen paths) of each network."""
    import hcjax

    tests = types.ModuleType("tests")  # so that a file of tests finds those of its own checkout
    tests.__path__ = [str(networks_of / "tests")]
    sys.modules["tests"] = tests
    parts = networks_file(networks_of).relative_to(networks_of).with_suffix("").parts
    module = importlib.import_module(".".join(parts))
    found = {name: (make, module.FROZEN.get(name, "")) for name, make in module.NETWORKS.items()}
    tiny = [name for name in sorted(hcjax.models.MODELS) if name.endswith("_tiny")]
    return found | {f"hcjax {name}": (partial(_own, name), "") for name in tiny}


def _own(name: str, shape: tuple[int, ...] = (32, 32, 3)) -> tuple[Callable, Any, Any]:
    """Returns (apply, params, image) of a model of hcjax with random parameters."""
    import jax
    import numpy as np

    import hcjax

    network = hcjax.models.create(name, input_shape=shape)
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    rng = np.random.default_rng(0)

    def draw(low, high):
        return lambda leaf: rng.uniform(low, high, leaf.shape).astype(leaf.dtype)

    params = jax.tree.map(draw(-0.3, 0.3), shapes[0])
    state = jax.tree.map(draw(0.5, 1.5), shapes[1])  # variances are positive
    return hcjax.inference(network.apply, state), params, np.ones((1, *shape), np.float32)


def _network(name: str, make: Callable, frozen: str, forms: Sequence[str]) -> Facts:
    """Returns the sha256 of the file and of the logits of a network in several forms."""
    import jax
    import numpy as np

    import hcjax

    apply, params, image = make()
    draws = np.random.default_rng(1).standard_normal((8, *image.shape[1:]), np.float32)
    facts: Facts = {}
    traced = hcjax.trace(apply, params, image, frozen=frozen)
    folded = hcjax.fold(traced)
    for form in forms:
        model = _formed(form, traced, folded, draws)
        logits = np.asarray(jax.jit(model.apply)(model.params, draws))
        facts[f"{name}, {form}: file"] = {"sha256": _sha256(hcjax.pack(model))}
        facts[f"{name}, {form}: logits"] = {"sha256": _sha256(logits.tobytes())}
    return facts


def _formed(form: str, traced: Any, folded: Any, images: Any) -> Any:
    """Returns a network in one of `FORMS`, calibrated on the images where it is in integers."""
    import hcjax

    masks = hcjax.prune.masks(folded.params, sparsity=0.75)
    pruned = folded.replace(params=hcjax.prune.apply(masks, folded.params))
    match form:
        case "float":
            return traced
        case "folded":
            return folded
        case "int8":
            return hcjax.int8(folded, hcjax.calibrate(folded, images))
        case "pruned":
            return pruned
        case "shared":
            return hcjax.share(folded, clusters=5)
    return hcjax.int8(pruned, hcjax.calibrate(pruned, images), bits=4)


def _training(folder: Path, name: str, *, devices: int, steps: int) -> Facts:
    """Returns the sha256 of a config's parameters after some steps, and the keys of its files."""
    workdir = folder / f"{name}-{devices}"
    changes = TRAININGS[name] | {"train.epochs": steps / 20}
    _launch(folder, name, changes, f"--workdir={workdir}", devices=devices)
    report = json.loads((workdir / "report.json").read_text())
    if report["steps"] != steps:
        raise RuntimeError(f"expected {steps} steps, found {report['steps']}")
    title = f"{name}, {devices} device{'s' * (devices > 1)}"
    facts: Facts = {f"{title}: parameters": {"sha256": report["params_sha256"]}}
    return facts | (_keys_in(workdir, name) if devices == 1 else {})


def _tiny_keys(folder: Path) -> Facts:
    """Returns the keys of what a run and its evaluation on other data write."""
    workdir = folder / "tiny"
    _launch(folder, "default", TINY, f"--workdir={workdir}")
    other = ["--config.data.source=mnist", "--config.data.limit=32"]
    cache = f"--config.cache_dir={folder / 'cache'}"
    _python(["launch.py", f"--eval={workdir}", *other, cache])
    facts = _keys_in(workdir, "tiny")
    for path in (folder / "cache").rglob("compiler-options.json"):
        facts |= _keys_in(path.parent, "cache")
    return facts


def _staged_keys(folder: Path) -> Facts:
    """Returns the keys of what a config with stages, `verify` and `compare` write."""
    workdir = folder / "staged"
    _launch(folder, "default", TINY | STAGES, f"--workdir={workdir}")
    facts = _keys_in(workdir, "staged")
    for name in ("verify", "compare"):
        file = folder / f"{name}.json"
        _python(
            [
                "-m",
                f"hcjax.{name}",
                str(workdir),
                f"--json={file}",
                f"--config.cache_dir={folder / 'cache'}",
            ]
        )
        facts[f"keys of {name} --json"] = _fact_of_keys(json.loads(file.read_text()))
    for path in sorted(workdir.glob("*.hcz")):
        facts[f"keys of the head of {path.name}"] = _fact_of_keys(head(path.read_bytes()))
    return facts


def _seeds_keys(folder: Path) -> Facts:
    """Returns the keys of what several seeds write, without stages and with them."""
    facts: Facts = {}
    for name, changes in (("seeds", TINY), ("seeds with stages", TINY | STAGES)):
        workdir = folder / name.replace(" ", "-")
        _launch(folder, "default", changes, f"--workdir={workdir}", "--seeds=2")
        facts |= _keys_in(workdir, name)
    return facts


def _sweep_keys(folder: Path) -> Facts:
    """Returns the keys of what a grid of runs writes."""
    workdir = folder / "sweep"
    sweep = "--sweep=optim.learning_rate=1e-2,1e-3"
    _launch(folder, "default", TINY, f"--workdir={workdir}", sweep)
    return _keys_in(workdir, "sweep")


def _plan_keys(folder: Path) -> Facts:
    """Returns the keys of what a plan for TPUs writes."""
    workdir = folder / "plan"
    _launch(folder, "default", TINY, f"--workdir={workdir}", "--plan=v5e:2x4")
    return _keys_in(workdir, "plan")


def _launch(folder: Path, config: str, changes: dict, *flags: str, devices: int = 1) -> None:
    """Runs launch.py with a config, some of whose keys are changed."""
    changes = changes | {"cache_dir": folder / "cache"}
    keys = [f"--config.{key}={value}" for key, value in changes.items()]
    command = ["launch.py", f"--config=configs/{config}.py", *keys, *flags, "--quiet"]
    _python(command, devices=devices)


def _python(command: list[str], *, devices: int = 1) -> None:
    """Runs a program of the checkout in the working directory; its last lines are the error."""
    done = subprocess.run(
        [sys.executable, *command],
        env=environment(Path.cwd(), devices=devices),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        last = " | ".join(done.stderr.strip().splitlines()[-3:])
        raise RuntimeError(f"{' '.join(command[:2])} ended with {done.returncode}: {last}")


def _keys_in(folder: Path, name: str) -> Facts:
    """Returns the keys of the JSON files at the top of a folder, and of its checkpoints' record."""
    found: dict[str, set[str]] = {}
    for path in sorted([*folder.glob("*.json"), *folder.glob("*.jsonl")]):
        text = path.read_text()
        lines = text.splitlines() if path.suffix == ".jsonl" else [text]
        for line in lines:
            found.setdefault(path.name, set()).update(key_paths(json.loads(line)))
    for path in folder.glob("checkpoints/*/meta/metadata"):
        body = json.loads(json.loads(path.read_text())["body"])
        found.setdefault("a checkpoint's record", set()).update(key_paths(body))
    return {f"keys of {name}/{title}": _hashed(keys) for title, keys in found.items()}


def key_paths(value: Any, path: str = "") -> set[str]:
    """Returns the path of every key inside JSON; the elements of a list have one path.

    Example:
      >>> sorted(key_paths({"a": [{"b": 1}, {"c": {}}]}))
      ['a', 'a[].b', 'a[].c']
    """
    found: set[str] = set()
    if isinstance(value, dict):
        for key, each in value.items():
            full = f"{path}.{key}" if path else key
            found |= {full} | key_paths(each, full)
    elif isinstance(value, list):
        for each in value:
            found |= key_paths(each, f"{path}[]")
    return found


def head(blob: bytes) -> Any:
    """Returns the head of a `.hcz` file: JSON, deflated, after 12 bytes and its length in 4."""
    length = int.from_bytes(blob[12:16], "little")
    return json.loads(zlib.decompress(blob[16 : 16 + length]))


def _fact_of_keys(value: Any) -> dict[str, Any]:
    return _hashed(key_paths(value))


def _hashed(keys: set[str]) -> dict[str, Any]:
    """Returns sorted keys with the sha256 of their lines."""
    ordered = sorted(keys)
    return {"sha256": _sha256("\n".join(ordered).encode()), "keys": ordered}


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
