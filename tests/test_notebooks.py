"""The tutorials: each begins and ends as promised, is plain text, and runs by the site's runner."""

import ast
import base64
import importlib.util
import re
from types import SimpleNamespace

import pytest

from tests.test_docs import DOCS, NOTEBOOKS, PAGES, SETTINGS

spec = importlib.util.spec_from_file_location("notebooks", DOCS / "notebooks.py")
runner = importlib.util.module_from_spec(spec)
spec.loader.exec_module(runner)


def cells(text):
    """Returns (kind, source) of each cell; Markdown without its comment signs."""
    found = []
    for part in re.split(r"^# %%", text, flags=re.M)[1:]:
        head, _, body = part.partition("\n")
        markdown = head.strip() == "[markdown]"
        body = re.sub(r"^# ?", "", body, flags=re.M) if markdown else body
        found.append(("markdown" if markdown else "code", body.strip()))
    return found


def test_there_are_eight_and_their_list_has_each():
    assert [path.stem for path in runner.sources()] == sorted(NOTEBOOKS)
    assert [name[:2] for name in NOTEBOOKS] == [f"{n}_" for n in range(1, 9)]
    listed = re.findall(r"\(notebooks/(\w+)\.py\) \| \w", PAGES["docs/tutorials.md"])
    assert listed == sorted(NOTEBOOKS)
    assert re.findall(r"notebooks/(\w+)\.md$", SETTINGS, flags=re.M) == sorted(NOTEBOOKS)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_tutorial_begins_and_ends_as_promised(name):
    text = NOTEBOOKS[name]
    (kind, first), *_, (last_kind, last) = cells(text)
    assert kind == last_kind == "markdown"
    assert re.match(r"# \S.*\n\n\*\*What you will have at the end:\*\* \w", first)
    assert "## What to try next\n\n- " in last and last.count("\n- ") >= 3
    assert re.search(r"^FULL = False  # True: ", text, flags=re.M)
    assert len(runner._STEPS.findall(text)) == 1


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_tutorial_is_text_without_outputs_or_numbers_of_a_run(name):
    text = NOTEBOOKS[name]
    assert text.startswith("# ---\n# jupyter:\n") and "format_name: percent" in text
    assert '"outputs"' not in text and "execution_count" not in text
    prose = "\n".join(body for kind, body in cells(text) if kind == "markdown")
    assert not re.findall(r"\d[\d.,]* ?(?:%|percent|bytes|kB)", prose)
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_tutorial_uses_what_is_public(name):
    for node in ast.walk(ast.parse(NOTEBOOKS[name])):
        if isinstance(node, ast.ImportFrom):
            assert node.module.split(".")[0] not in ("hcjax", "configs", "benchmarks", "tests")
        if isinstance(node, ast.Import):
            assert not [alias for alias in node.names if alias.name.startswith("hcjax.")]


def test_a_page_has_the_cells_with_their_outputs():
    def code(source, *outputs):
        return SimpleNamespace(cell_type="code", source=source, outputs=outputs)

    words = SimpleNamespace(cell_type="markdown", source="# One\n\nSee [two](2_two.py), [x](x.py).")
    picture = {"data": {"image/png": base64.b64encode(b"PNG").decode(), "text/plain": "<Figure>"}}
    table = {"data": {"text/html": "<table></table>", "text/plain": "a table"}}
    shown = [words, code("draw()", picture), code("a", table, {"text": "printed\n"}), code("b = 1")]
    text, pictures = runner.page(SimpleNamespace(cells=shown), "1_one")
    assert pictures == {"1_one_1.png": b"PNG"}
    assert text.split("\n\n") == [
        "# One", "See [two](2_two.md), [x](x.py).", "```python\ndraw()\n```", "![One](1_one_1.png)",
        "```python\na\n```", '<div class="output"><table></table></div>',
        "``` {.text .output}\nprinted\n```", "```python\nb = 1\n```",
        "[This page as a notebook](1_one.py), to run and to change.\n",
    ]  # fmt: skip


def test_the_runner_names_what_there_is(capsys):
    with pytest.raises(SystemExit):
        runner.main(["9_none"])
    assert "no tutorial 9_none; there are 1_lenet, " in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_tutorial_runs(name):
    pytest.importorskip("jupytext", reason="needs the extra docs")
    pytest.importorskip("nbclient", reason="needs the extra docs")
    text, pictures = runner.page(runner.executed(DOCS / f"notebooks/{name}.py", steps=4), name)
    assert len(pictures) >= 2 and all(data[1:4] == b"PNG" for data in pictures.values())
    assert all(f"({file})" in text for file in pictures)
    assert "Warning" not in text and "Traceback" not in text
