"""The README's tour runs, its first two commands are what CI runs, its numbers are recorded."""

import re

import pytest

import hcjax
from tests.tiny import ROOT

README = (ROOT / "README.md").read_text()
RECORDED = [(ROOT / "docs" / name).read_text() for name in ("results.md", "performance.md")]


def blocks(language, page=README):
    return re.findall(rf"^```{language}\n(.*?)^```$", page, flags=re.M | re.S)


def section(title):
    return re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", README, flags=re.M | re.S)[1]


@pytest.mark.slow
def test_the_tour_makes_integers_of_a_network_of_flax(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tour,) = blocks("python")
    names = {}
    exec(compile(tour, "README.md", "exec"), names)
    first, second = names["first"], names["second"]
    assert first.accuracy > 0.95 and second.accuracy > 0.94  # an untrained network has 0.1
    assert second.macs <= 0.5 * first.macs and names["int8"].floats == ()
    back = hcjax.unpack((tmp_path / "net.hcz").read_bytes())
    assert second.file_bytes / first.file_bytes < 0.13
    some = names["some"]
    assert (back.apply(back.params, some) == names["int8"].apply(names["int8"].params, some)).all()
    assert "int8" in capsys.readouterr().out


def test_the_first_two_commands_are_one_line_each_and_make_their_own_environment():
    run, test = (block.strip() for block in blocks("sh")[:2])
    assert "\n" not in run + test
    assert run.startswith("python3 -m venv .venv && ")
    assert test.startswith("python3 -m venv .venv && ")
    assert "launch.py --config=configs/lenet.py" in run
    assert "-m pytest" in test


def test_it_is_short():
    assert len(README.splitlines()) <= 130 and len(README.split()) <= 1000


@pytest.mark.parametrize("title", ["Results", "Speed"])
def test_every_number_of_its_tables_is_in_the_docs_and_names_its_command(title):
    text = section(title)
    rows = [line for line in text.splitlines() if line.startswith("|")][2:]
    assert len(rows) >= 5
    for row in rows:
        named, *cells = row.strip("| ").split(" | ")
        for number in re.findall(r"\d[\d,.]*\d(?: ± \d[\d,.]*\d)?", " ".join(cells)):
            number = number.rstrip(",.")
            assert any(number in page for page in RECORDED), f"{number} of {named} is in no page"
    commands = re.findall(r"`(python [^`]+)`", text)
    assert commands, f"no command prints the numbers of {title}"
    for path in re.findall(r"(?:configs|benchmarks)/\w+\.py", text):
        assert (ROOT / path).exists(), path


def test_the_entries_it_names_are_there():
    """The tables of "Extend it", by name, and the folders of the map."""
    from hcjax.app import stages
    from hcjax.graph import ops

    assert stages.STAGES and ops.KINDS
    for name in re.findall(r"`hcjax\.([\w.]+)`", section("Extend it")):
        found = hcjax
        for part in name.split("."):
            found = getattr(found, part)
        assert isinstance(found, dict), name
    folders = {p.name for p in (ROOT / "hcjax").iterdir() if (p / "__init__.py").exists()}
    rows = re.findall(r"^\| (`.+?) \|", section("The folders"), flags=re.M)
    assert {word for row in rows for word in re.findall(r"`(\w+)`", row)} == folders
