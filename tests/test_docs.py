"""The pages of docs/: their code runs, in order, their links lead somewhere, their list is whole.

Pages whose code is quick run here; the guides that train LeNet-5 are slow. docs/extending.md has a
file of its own.
"""

import functools
import importlib.util
import inspect
import json
import re
import shutil

import jax
import pytest

import hcjax
from hcjax.app.commands import COMMANDS
from tests.test_readme import README, blocks
from tests.tiny import ROOT

DOCS = ROOT / "docs"
NOTEBOOKS = {path.stem: path.read_text() for path in sorted((DOCS / "notebooks").glob("*.py"))}
# pages of notebooks are written where the site is built, and may be there
PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in sorted(DOCS.rglob("*.md")) if path.parent.name != "notebooks"
}  # fmt: skip
# their Markdown stands in comments
TEXTS = {f"docs/notebooks/{name}.py": re.sub(r"^# ?", "", text, flags=re.M)
         for name, text in NOTEBOOKS.items()}  # fmt: skip
ALL = {"README.md": README, **PAGES, **TEXTS}
# one notebook, cell by cell
GUIDES = (
    "train", "accelerate", "fold", "prune", "shrink", "quantize", "distil", "pack", "prove",
    "which",
)  # fmt: skip
QUICK = ("data", "own_network", "networks", "export", "export_c", "export_onnx", "robust")
SETTINGS = (DOCS / "mkdocs.yml").read_text()


def run(page, names):
    for block in blocks("python", PAGES[f"docs/{page}.md"]):
        exec(compile(block, f"{page}.md", "exec"), names)


def prose(text):
    """Returns a page without its fenced code."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)


def anchors(text):
    """Returns the names of a page's headings, as the site and GitHub write them."""
    heads = re.findall(
        r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S), flags=re.M
    )
    return {re.sub(r"[^\w\- ]", "", head).strip().lower().replace(" ", "-") for head in heads}


def test_every_block_of_tasks_and_other_data_runs(capsys):
    names = {}
    run("networks", names)
    printed = capsys.readouterr().out
    assert "{'both': float32[N, 6], 'box': float32[N, 4]}" in printed
    assert "Dataset arrays: [6] to [2]; train 256, validation 64, test 0" in printed
    assert "validation r2" in printed and printed.splitlines()[-1] == "True"
    assert names["done"].history[-1]["train_accuracy"] >= 0


def test_your_own_data(capsys):
    run("data", {})
    assert capsys.readouterr().out.split() == ["(48,", "8,", "8,", "1)", "(1,)"]


def test_export(capsys):
    run("export", {})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("integers ['README.md', 'examples.npz', 'network.hcz'")
    assert len(lines) == 6 and all(line.endswith(" 1.0") for line in lines[1:5])
    assert lines[5] == "True"


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C compiler")
def test_export_c(capsys):
    run("export_c", {})
    assert capsys.readouterr().out.splitlines() == ["['network.c', 'network.h']", "True", "True"]


def test_export_onnx(capsys):
    run("export_onnx", {})
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines] == ["float", "exact", "qdq"]
    assert lines[1][1] == "True" and all(line[2] == "True" for line in lines)


def test_robustness(capsys):
    run("robust", {})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "True" and lines[1].startswith("linf 0.1, 16 examples")
    assert lines[-2] == "True (16,)" and "twin" in lines[-1]


def test_your_own_network(capsys):
    names = {}
    run("own_network", names)
    floats, sizes = capsys.readouterr().out.splitlines()
    big, small = map(int, sizes.split())
    assert floats == "()" and small < 0.5 * big
    assert names["done"].history[-1]["train_accuracy"] > 0.9


@pytest.mark.slow
def test_the_guides_are_one_notebook(capsys):
    names = {}

    def printed(page):
        capsys.readouterr()
        run(page, names)
        return capsys.readouterr().out

    accuracies = [float(line) for line in printed("train").split()]
    assert len(accuracies) == 2
    assert min(accuracies) > 0.95  # 100 steps of 128 images; an untrained LeNet has 0.1
    assert "max_pool_gradient: Sends" in printed("accelerate")
    assert "2,293,000" in printed("fold") and names["logits"].shape == (8, 10)
    before = names["model"].apply(names["model"].params, names["images"])

    text = printed("prune").split()
    assert text[0] == "accuracy" and int(text[-1]) == 43_050  # of 430,500 weights in kernels
    pruned = sum(int((~mask).sum()) for mask in names["masks"].values())
    assert 0.9 * 430_500 <= pruned < 430_500

    part, size, trimmed, *ranks = printed("shrink").split()
    assert 0.15 < float(part) < 0.5 and int(trimmed) < int(size) < 20_000 and ranks
    moments = jax.tree.map(lambda leaf: leaf.shape, names["opt_state"][0].mu)
    assert moments == jax.tree.map(lambda leaf: leaf.shape, names["small"].params)
    whole, thin = (hcjax.cost(names[name]).macs for name in ("model", "thin"))
    assert 0.4 * whole < thin <= 0.5 * whole

    text = printed("quantize")
    *_, error, size = text.split()
    assert "() True" in text and "SQNR (dB)" in text and "times as fast" in text
    assert len(names["mixed"].floats) < 4
    assert (names["logits"].argmax(1) == names["batch"]["labels"]).mean() > 0.9
    assert float(error) < 0.05 and 100_000 < int(size) < 431_080 / 2 + 4096
    distance = lambda name: abs(
        names[name].apply(names[name].params, names["images"]) - before
    ).max()
    assert distance("fine") < distance("rough")

    printed("distil")
    shapes = jax.tree.map(lambda leaf: leaf.shape, names["taught"].params)
    assert shapes == jax.tree.map(lambda leaf: leaf.shape, names["small"].params)
    assert names["taught"].train_state.step == 100

    size, equal = printed("pack").split()
    assert 300_000 < int(size) < 431_080 * 1.02 + 4096 and equal == "True"

    assert "of 10,000 test examples otherwise than float" in printed("prove")
    assert names["second"].macs == 2_293_000 and names["second"].nonzeros > 400_000

    assert "2,293,000" in printed("which")
    kept = sum(int(m.sum()) for m in names["masks"].values() if m.ndim > 1)
    assert kept == 430_500 - int(0.9 * 430_500 + 0.5)
    assert hcjax.cost(names["small"]).macs < 0.5 * whole
    assert names["logits"].shape == (128, 10) and (names["loss"] == 0).all()
    back = hcjax.unpack(names["blob"])
    assert (back.apply(back.params, names["images"]) == names["logits"]).all()


def test_every_page_with_code_is_run_by_a_test():
    with_code = {name for name, text in PAGES.items() if blocks("python", text)}
    assert with_code == {f"docs/{page}.md" for page in (*GUIDES, *QUICK, "extending")}


@pytest.mark.parametrize("page", ALL)
def test_links_lead_to_files_and_headings(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", prose(ALL[page]))):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        file = ((ROOT / page).parent / path).resolve() if path else ROOT / page
        assert file.exists(), f"{page}: {target}"
        if anchor:
            assert anchor in anchors(file.read_text()), f"{page}: {target} names no heading"


@pytest.mark.parametrize("page", ALL)
def test_files_and_commands_that_a_page_names_exist(page):
    path = r"(?<![\w/.])(?:configs|benchmarks|docs|hcjax)/[a-z][\w/]*\.(?:py|md|cc)"
    for name in re.findall(path, ALL[page]):
        assert (ROOT / name).exists(), f"{page}: {name}"
    commands = set(re.findall(r"^hcjax (\w+)", ALL[page], flags=re.M))
    assert commands <= set(COMMANDS)
    if page == "docs/cli.md":
        assert commands == set(COMMANDS)


def test_every_page_is_in_the_list_of_the_site():
    listed = re.findall(r"(?:: |- )([\w/]+\.md)$", SETTINGS, flags=re.M)
    notebooks = [f"docs/notebooks/{name}.md" for name in NOTEBOOKS]
    assert sorted(f"docs/{name}" for name in listed) == sorted([*PAGES, *notebooks])


def test_every_benchmark_is_listed():
    scripts = {p.name for p in (ROOT / "benchmarks").glob("*.py") if "__main__" in p.read_text()}
    listed = set(re.findall(r"^python benchmarks/(\w+\.py)", PAGES["docs/performance.md"], re.M))
    assert scripts == listed


def test_the_reference_has_every_public_name_and_no_module_in_its_place():
    named = set()
    for page in PAGES.values():
        for path, options in re.findall(r"^::: (\S+)\n((?: +.*\n)*)", page, flags=re.M):
            heading = re.search(r"heading: (\S+)", options)
            named.add(heading[1] if heading else path)
            # the reference is read from the files: of equal names there the module goes first
            file = ROOT / path.replace(".", "/")
            if file.is_dir() or file.with_suffix(".py").is_file():
                found = functools.reduce(getattr, path.split(".")[1:], hcjax)
                clash = inspect.isfunction(found) or inspect.isclass(found)
                assert not clash, f"{path} is a module there: give its full path"
    modules = {n: getattr(hcjax, n) for n in hcjax.__all__ if inspect.ismodule(getattr(hcjax, n))}
    wanted = {f"hcjax.{n}" for n in hcjax.__all__ if n not in modules}
    for module in modules.values():
        wanted.add(module.__name__)
        wanted |= {f"{module.__name__}.{n}" for n in getattr(module, "__all__", ())}
    assert wanted - named == {"hcjax.models.inference"}  # is `hcjax.inference`


def test_the_chain_is_drawn_from_a_report(tmp_path, capsys):
    spec = importlib.util.spec_from_file_location("chain", DOCS / "chain.py")
    chain = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(chain)
    rows = [("float", 4000, 0.99), ("pruned", 1000, 0.98), ("quantized-trained", 250, 0.985)]
    stages = [dict(zip(("name", "file_bytes", "accuracy"), row, strict=True)) for row in rows]
    (tmp_path / "report.json").write_text(json.dumps({"stages": stages}))
    assert chain.main([str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "250 bytes  98.50 %" in printed and (tmp_path / "chain.png").stat().st_size > 5000
    ax = chain.draw_chain(stages, title="").axes[0]
    assert [patch.get_width() ** 2 for patch in ax.patches] == pytest.approx([1, 1 / 4, 1 / 16])
    assert "16 × smaller" in ax.texts[-2].get_text() + ax.texts[-1].get_text()
    (tmp_path / "report.json").write_text("{}")
    assert chain.main([str(tmp_path)]) == 2 and "has no stages" in capsys.readouterr().err
    assert chain.main([str(tmp_path / "none")]) == 2
