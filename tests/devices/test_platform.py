"""Where a run computes: names, the cache's folder, the first lines."""

import jax
import pytest

from hcjax.devices import platform
from hcjax.errors import ConfigError


def test_the_cache_folder_names_this_jax_and_nothing_else_changes_it(tmp_path):
    folder = platform.cache_folder(tmp_path)
    assert folder == platform.cache_folder(tmp_path)
    assert folder.is_relative_to(tmp_path) and f"jax-{jax.__version__}-" in folder.name


@pytest.mark.parametrize(
    ("target", "value"),
    [
        ("hcjax.devices.platform.jax.__version__", "99.1"),
        ("hcjax.devices.platform.jaxlib.__version__", "99.1"),
        ("hcjax.core.system._processor", lambda: "model name: another"),
        ("hcjax.core.system.machine.machine", lambda: "another64"),
    ],
    ids=["jax", "jaxlib", "processor", "architecture"],
)
def test_another_release_or_machine_never_reuses_a_cache(tmp_path, monkeypatch, target, value):
    here = platform.cache_folder(tmp_path)
    monkeypatch.setattr(target, value)
    assert platform.cache_folder(tmp_path) != here


def test_the_cache_follows_the_users_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert platform.cache_folder().is_relative_to(tmp_path / "x" / "hcjax")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert platform.cache_folder().is_relative_to(tmp_path / "home" / ".cache" / "hcjax")


def test_a_cache_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot make the compilation cache .*file"):
        platform.use_cache(tmp_path / "file" / "below")


def test_the_cache_keeps_programs_however_quickly_they_compiled(tmp_path):
    names = (
        "jax_enable_compilation_cache", "jax_compilation_cache_dir",
        "jax_persistent_cache_min_compile_time_secs", "jax_persistent_cache_min_entry_size_bytes",
    )  # fmt: skip
    before = {name: getattr(jax.config, name) for name in names}
    try:
        for name in names[2:]:
            jax.config.update(name, 9)
        platform.use_cache(None)
        assert not jax.config.jax_enable_compilation_cache
        platform.use_cache(tmp_path)
        assert [getattr(jax.config, name) for name in names] == [True, str(tmp_path), 0.0, -1]
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def test_an_unknown_platform_is_refused():
    with pytest.raises(ConfigError, match="platform must be one of cpu, gpu, tpu, got 'abacus'"):
        platform.select("abacus")


def test_the_first_lines_say_where_it_computes(tmp_path):
    first, second, third = platform.describe(None)
    assert first.startswith("platform cpu: ") and "host 0 of 1" in first and "threads" in first
    assert jax.__version__ in second
    assert third == "compilation cache: off"
    (tmp_path / "jit_f-abc-cache").write_text("")
    assert platform.describe(tmp_path)[2] == f"compilation cache: {tmp_path} (1 programs)"
