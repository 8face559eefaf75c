"""Tests of hcjax.core.registry: names and keyword options of the literal tables."""

import functools

import pytest

from hcjax.core import registry
from hcjax.errors import ConfigError


def blur(image, *, radius, passes=1):
    return image, radius, passes


def test_an_unknown_name_lists_the_nearest():
    with pytest.raises(ConfigError, match="unknown filter 'blurr'; did you mean 'blur'"):
        registry.choose("filter", {"blur": blur}, "blurr")


def test_only_keyword_only_arguments_that_nothing_has_bound_are_options():
    assert set(registry.legal(blur)) == {"radius", "passes"}
    assert set(registry.legal(functools.partial(blur, radius=2))) == {"passes"}


def test_an_unknown_option_lists_the_nearest():
    with pytest.raises(ConfigError, match="option of filter 'blur' 'pases'; did you mean 'passes'"):
        registry.check("filter 'blur'", blur, {"radius": 1, "pases": 2})


def test_a_missing_required_option_is_named():
    with pytest.raises(ConfigError, match="filter 'blur' needs the option 'radius'"):
        registry.check("filter 'blur'", blur, {"passes": 2})
    registry.check("filter 'blur'", blur, {"radius": 2})
