"""Debian packages are unpacked where they were asked to be."""

from pathlib import Path

from benchmarks import packages


def test_a_relative_folder_is_meant_from_here(tmp_path, monkeypatch):
    commands = []

    def run(command, place, name):
        commands.append(command)
        Path(place, f"{name}_1.deb").touch()

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(packages, "_run", run)
    for _ in range(2):  # the second time nothing is fetched
        assert packages.fetch(["some-font"], "here") == tmp_path / "here"
    assert [command[0] for command in commands] == ["apt-get", "dpkg-deb"]
    assert commands[1][-1] == str(tmp_path / "here")
