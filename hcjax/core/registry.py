"""Literal tables of functions: look one up by name and check its keyword options.

Every table of the project (models, losses, optimisers, schedules, …) maps a name to a function
that takes only the keywords it uses. An unknown option is then an error at construction, which
names the nearest legal one.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from hcjax.errors import ConfigError, unknown_name


def choose(what: str, table: Mapping[str, Callable], name: str) -> Callable:
    """Returns `table[name]`; an unknown name is an error that lists the legal ones.

    Args:
      what: the kind of thing in the table, for the message, e.g. "model".
      table: name -> function.
      name: a key of the table.

    Returns:
      The function.

    Raises:
      ConfigError: if the table has no such name.

    Example:
      >>> choose("model", {"nin": len}, "nin") is len
      True
    """
    if name not in table:
        raise ConfigError(unknown_name(what, str(name), table))
    return table[name]


def legal(function: Callable) -> dict[str, Any]:
    """Returns the keyword-only arguments of a function with their defaults.

    Args:
      function: a function of a table; arguments that a `functools.partial` has bound are left out.

    Returns:
      Dictionary name -> default (`inspect.Parameter.empty` where there is none).

    Example:
      >>> def shift(image, *, pixels=2): ...
      >>> legal(shift), legal(functools.partial(shift, pixels=3))
      ({'pixels': 2}, {})
    """
    bound = function.keywords if isinstance(function, functools.partial) else {}
    parameters = inspect.signature(function).parameters.values()
    keyword = inspect.Parameter.KEYWORD_ONLY
    return {p.name: p.default for p in parameters if p.kind is keyword and p.name not in bound}


def check(what: str, function: Callable, given: Mapping[str, Any]) -> None:
    """Raises ConfigError for an unknown option of a function, or a missing one.

    Args:
      what: the owner of the options, for the message, e.g. "model 'lenet5'".
      function: a function of a table.
      given: options by name.

    Raises:
      ConfigError: if an option is unknown, naming the nearest, or a required one is missing.

    Example:
      >>> check("augmentation 'shift'", lambda image, *, pixels=2: image, {"pixels": 3})
    """
    options = legal(function)
    for name in given:
        if name not in options:
            raise ConfigError(unknown_name(f"option of {what}", name, options))
    for name, default in options.items():
        if default is inspect.Parameter.empty and name not in given:
            raise ConfigError(f"{what} needs the option '{name}'; it has no default")
