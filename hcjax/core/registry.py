"""Choosing a function from a literal table by name, with its keyword options checked.

Every table of the project (models, losses, optimisers, schedules, …) maps a name to a function
that takes only the keywords it uses, so that an option nobody reads is an error with the
nearest legal name, raised at construction.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from hcjax.errors import ConfigError, unknown_name


def choose(what: str, table: Mapping[str, Callable], name: str) -> Callable:
    """Returns `table[name]`, or an error that lists the legal names.

    Args:
      what: what the table holds, for the message, e.g. "model".
      table: name -> function.
      name: the name asked for.

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
      function: a function of a table; what a `functools.partial` has bound is not an option.

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
    """Raises unless every given name is a keyword of the function and none is missing.

    Args:
      what: whose options they are, for the message, e.g. "model 'lenet5'".
      function: a function of a table.
      given: options by name.

    Raises:
      ConfigError: if an option is unknown, naming the nearest, or a required one is missing.

    Example:
      >>> check("augmentation 'shift'", lambda image, *, pixels=2: image, {"pixels": 3})
    """
    known = legal(function)
    for name in given:
        if name not in known:
            raise ConfigError(unknown_name(f"option of {what}", name, known))
    for name, default in known.items():
        if default is inspect.Parameter.empty and name not in given:
            raise ConfigError(f"{what} needs the option '{name}'; it has no default")
