"""The rules of the layout: imports run one way, files are short, configs stay at the top."""

import ast
import fnmatch
import re

import pytest

from tests.tiny import ROOT

PACKAGE = ROOT / "hcjax"
FILES = sorted(PACKAGE.rglob("*.py"))
LONGEST = 250
# file -> why it is longer
EXCEPTIONS: dict[str, str] = {}

# who may import whom: a module imports from its own layer and from those above it in this list
LAYERS = (
    ("errors", "version"),
    ("options", "trees", "jaxpr"),
    ("rewrite",),
    ("accelerate", "graph"),
    ("data", "models", "losses", "metrics", "optim"),
    ("transforms",),
    ("artifact",),
    ("reports",),
    ("training",),
    ("config",),
    ("configfile",),
    ("workdir",),
    ("cards", "changes", "quantize", "saved"),
    ("start",),
    ("recipe",),
    ("stages", "teachers"),
    ("pipeline",),
    ("summary",),
    ("run",),
    ("score", "studies"),
    ("allocator",),
    ("cli",),
    ("verify",),
    ("compare",),
)
# siblings in a layer that must not know each other
APART = {
    "data": {"models", "losses", "metrics", "optim"},
    "models": {"data", "losses", "metrics", "optim"},
    "losses": {"data", "models", "optim"},
    "metrics": {"data", "models", "optim"},
    "optim": {"data", "models", "losses", "metrics"},
}
# what may hold or read a config
CONFIG_READERS = {
    "cli", "config", "configfile", "pipeline", "recipe", "run", "score", "start", "studies",
    "teachers", "verify", "workdir",
}  # fmt: skip
TOP = {
    "README.md", "benchmarks", "configs", "docs", "hcjax", "launch.py", "pyproject.toml",
    "requirements.txt", "tests",
}  # fmt: skip


def part(path):
    """'data' for hcjax/data/idx.py, 'run' for hcjax/run.py, '' for hcjax/__init__.py."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0].replace("__init__", "")


def layer(name):
    return next(i for i, names in enumerate(LAYERS) if name in names)


def parts_imported(path):
    """Returns the parts of hcjax that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            full = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            full = [alias.name for alias in node.names]
        else:
            continue
        found |= {name.split(".")[1] for name in full if name.startswith("hcjax.")}
    return found


def identifiers(path):
    """Returns every name, attribute and imported name in a file's code; no comments, no text."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {word for alias in node.names for word in alias.name.split(".")}
            found |= set((getattr(node, "module", "") or "").split("."))
    return found


def named(files):
    return [str(path.relative_to(ROOT)) for path in files]


def test_every_part_has_a_layer():
    parts = {part(path) for path in FILES} - {""}
    assert parts == {name for names in LAYERS for name in names}


@pytest.mark.parametrize("path", [p for p in FILES if part(p)], ids=lambda p: p.stem)
def test_imports_run_one_way(path):
    mine = part(path)
    for other in parts_imported(path):
        assert layer(other) <= layer(mine), f"{mine} must not import {other}"
        assert other not in APART.get(mine, set()), f"{mine} must not know {other}"


def test_no_file_is_long_without_a_reason():
    files = [*FILES, *(ROOT / "configs").glob("*.py"), ROOT / "launch.py"]
    long = [path for path in files if len(path.read_text().splitlines()) > LONGEST]
    assert named(long) == sorted(EXCEPTIONS)


def test_configs_are_read_only_at_the_top():
    below = [path for path in FILES if part(path) not in CONFIG_READERS]
    readers = [
        path for path in below
        if {"ml_collections", "ConfigDict", "configs"} & identifiers(path)
        or {"config", "configfile"} & parts_imported(path)
    ]  # fmt: skip
    assert named(readers) == []


def test_one_file_says_pmap():
    says = [path for path in FILES if "pmap" in identifiers(path)]
    assert named(says) == ["hcjax/training/parallel.py"]


@pytest.mark.parametrize("word", ["_src", "pickle", "tensorflow", "PRNGKey", "tree_map"])
def test_forbidden_names_are_in_no_file(word):
    assert named(path for path in FILES if word in identifiers(path)) == []


def test_no_file_is_called_utils():
    assert not [path for path in FILES if "util" in path.stem or "helper" in path.stem]


def test_the_top_level_is_as_designed():
    tracked = {p.name for p in ROOT.iterdir() if not p.name.startswith((".", "__"))}
    ignored = [line.strip("/ ") for line in (ROOT / ".gitignore").read_text().split()]
    assert tracked >= TOP
    assert not [n for n in tracked - TOP if not any(fnmatch.fnmatch(n, i) for i in ignored)]


def test_launch_has_no_logic():
    tree = ast.parse((ROOT / "launch.py").read_text())
    kinds = {type(node) for node in tree.body}
    assert kinds <= {ast.Expr, ast.Import, ast.ImportFrom, ast.Assign, ast.If}
    assert len((ROOT / "launch.py").read_text().splitlines()) < 20


@pytest.mark.parametrize("path", FILES, ids=lambda p: "/".join(p.parts[-2:]))
def test_every_public_function_has_a_docstring_that_begins_with_a_verb(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), f"{path} has no module docstring"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name[0] != "_":
            text = ast.get_docstring(node) or ""
            assert re.match(r"[A-Z][a-z]+s\b", text), f"{path.name}: {node.name}: {text[:40]!r}"
