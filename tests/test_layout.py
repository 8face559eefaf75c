"""The rules of the layout: imports run one way and not deep, configs stay in `app`."""

import ast
import fnmatch
from collections import defaultdict

import pytest

from tests import slow
from tests.tiny import ROOT

PACKAGE = ROOT / "hcjax"
FILES = sorted(PACKAGE.rglob("*.py"))
LONGEST = 400  # lines; one idea a file
# file -> why it is longer
EXCEPTIONS: dict[str, str] = {}
LEVELS = 8  # of the package: as many imports from the lowest folder to the highest
LEVELS_INSIDE = 6  # of a folder
DEEPER: dict[str, int] = {}  # as they stood before the move
# who may stand beside the folders: the public nouns, and doors
NOUNS = {"__init__", "errors", "losses", "metrics", "trees", "version"}
# what knows configs
TOP_PARTS = {"app", "config"}
TOP = {
    "README.md", "benchmarks", "configs", "docs", "hcjax", "launch.py", "pyproject.toml",
    "requirements.txt", "setup.py", "tests",
}  # fmt: skip


def module(path):
    """'data.idx' for hcjax/data/idx.py, 'data' for hcjax/data/__init__.py, '' for the package."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module(path): path for path in FILES}


def imported(path):
    """Returns the modules of hcjax that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names = [(f"{node.module}.{alias.name}", node.module) for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [(alias.name, alias.name) for alias in node.names]
        else:
            continue
        for pair in names:
            inside = [name.partition(".")[2] for name in pair if name.split(".")[0] == "hcjax"]
            found |= set([name for name in inside if name in MODULES][:1])
    return found - {module(path)}


IMPORTS = {name: imported(path) for name, path in MODULES.items()}
FOLDERS = sorted({name.rpartition(".")[0] for name in MODULES if name})


def door(name):
    """Returns whether a module is only there for `python -m hcjax.NAME`."""
    loose = "." not in name and name not in NOUNS and MODULES[name].name != "__init__.py"
    return loose or name.endswith(".__main__")


def units(folder):
    """Returns unit -> units that it imports, of a folder's files and sub-folders."""
    prefix = f"{folder}." if folder else ""
    found = defaultdict(set)

    def unit(name):
        if name.endswith(".__main__"):  # `python -m hcjax.NAME` is a door of the app
            return None if folder else "app"
        return name[len(prefix) :].split(".")[0] if name.startswith(prefix) and name else None

    for name, others in IMPORTS.items():
        if mine := unit(name):
            found[mine] |= {other for other in map(unit, others) if other and other != mine}
    return found


def levels(folder):
    """Returns unit -> its level: 1 imports nothing of the folder; a cycle is an error."""
    graph, found = units(folder), {}

    def level(unit, above=()):
        assert unit not in above, f"a cycle in {folder or 'hcjax'}: {' > '.join((*above, unit))}"
        if unit not in found:
            found[unit] = 1 + max((level(u, (*above, unit)) for u in graph[unit]), default=0)
        return found[unit]

    for unit in list(graph):
        level(unit)
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


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda name: name or "hcjax")
def test_imports_run_one_way_and_not_deep(folder):
    found = levels(folder)
    rows = defaultdict(list)
    for unit, level in found.items():
        rows[level].append(unit)
    print(f"\n{folder or 'hcjax'}")
    for level, members in sorted(rows.items()):
        print(f"  {level}  {' '.join(sorted(members))}")
    assert max(found.values()) <= (DEEPER.get(folder, LEVELS_INSIDE) if folder else LEVELS)


def test_no_loose_files_stand_beside_the_folders():
    loose = {path.stem for path in PACKAGE.glob("*.py")} - NOUNS
    assert all(door(name) for name in loose)
    for name in [*loose, *(name for name in MODULES if name.endswith(".__main__"))]:
        assert len(ast.parse(MODULES[name].read_text()).body) <= 4, f"{name} is a door, no more"


def test_no_file_is_long_without_a_reason():
    files = [*FILES, *(ROOT / "configs").glob("*.py"), ROOT / "launch.py"]
    long = [path for path in files if len(path.read_text().splitlines()) > LONGEST]
    assert named(long) == sorted(EXCEPTIONS)


def test_configs_are_read_only_in_app():
    below = [p for name, p in MODULES.items() if name.split(".")[0] not in TOP_PARTS]
    readers = [
        path for path in below
        if not door(module(path))
        and ({"ml_collections", "ConfigDict", "configs"} & identifiers(path)
             or {"config", "app"} & {name.split(".")[0] for name in imported(path)})
    ]  # fmt: skip
    assert named(readers) == []


def test_one_file_says_pmap():
    says = [path for path in FILES if "pmap" in identifiers(path)]
    assert named(says) == ["hcjax/train/parallel.py"]


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
def test_every_public_function_has_a_docstring(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), f"{path} has no module docstring"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name[0] != "_":
            text = (ast.get_docstring(node) or "").split("\n")[0]
            assert text, f"{path.name}: {node.name}: {text[:40]!r}"


def test_no_import_is_renamed_only_to_dodge_a_clash():
    renamed = [
        f"{path.relative_to(ROOT)}: {alias.name} as {alias.asname}"
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "hcjax"
        for alias in node.names
        if alias.asname and alias.asname != alias.name
    ]
    assert renamed == []


def test_an_entry_of_slow_tests_that_names_none_is_found():
    files = ["test_a.py", "test_b.py"]
    names = ["test_a.py::test_x[options0-3]", "test_a.py::test_y"]
    entries = ["test_a.py::test_x[options0-", "test_a.py::test_y"]
    wrong = ["test_a.py::test_x[options0", "test_a.py::test_z", "test_gone.py::test_y"]
    unread = ["test_b.py::test_of_a_file_that_was_not_collected"]
    assert slow.stale(names, files, [*entries, *wrong, *unread]) == wrong
    assert slow.name_of("tests/a/test_a.py::test_x[a/b::c]") == "a/test_a.py::test_x[a/b::c]"
