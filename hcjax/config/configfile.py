"""Config files and changes to them: what `--config=FILE --config.KEY=VALUE` means.

In: a Python file with `get_config()`, and keys with values as text. Out: an
`ml_collections.ConfigDict`. ml_collections' own flags are not used: they put tracebacks into
messages, cannot set a key to None, and sweeps need the same reading of values.
"""

from __future__ import annotations

import ast
import importlib.util
import math
import re
import traceback
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from hcjax.config import shipped
from hcjax.config.keys import did_you_mean
from hcjax.config.reader import flatten, to_dict
from hcjax.errors import ConfigError


def load(path: str) -> ConfigDict:
    """Returns what `get_config()` of a Python file returns.

    Args:
      path: the file; `configs/NAME.py` is also one that comes with hcjax, see `shipped.find`. It is
        executed; `from configs import default` works in any folder.

    Raises:
      ConfigError: if there is no such file, or it fails, naming its line and what is wrong.
    """
    file = shipped.find(path)
    spec = importlib.util.spec_from_file_location("hcjax_config_file", file)
    if spec is None:
        raise ConfigError(f"a config is a Python file, named something.py, got {path}")
    module = importlib.util.module_from_spec(spec)
    with shipped.importable(file):
        try:
            spec.loader.exec_module(module)
            config = module.get_config()
        except Exception as error:  # a user's code may fail in any way
            line, reason = _line(error, str(file)), _reason(error, str(file))
            raise ConfigError(f"config file {path}{line}: {reason}") from error
    if not isinstance(config, ConfigDict):
        raise ConfigError(
            f"get_config() in {path} must return a ConfigDict, it returned {type(config).__name__}"
        )
    return config


def override(config: ConfigDict, key: str, text: str) -> None:
    """Sets a key of a config, in place, to what a text says, of the type that the key has.

    Args:
      config: see `configs/default.py`.
      key: 'optim.learning_rate'.
      text: a number, `true`, a tuple such as `28,28` or `flip,shift`, a string, or `None`.

    Raises:
      ConfigError: if there is no such key, naming the nearest, or the text has another type.

    Example:
      >>> config = ConfigDict({"data": {"validation": 5000, "size": (28, 28)}})
      >>> override(config, "data.size", "32,32")
      >>> config.data.size
      (32, 32)
    """
    *parents, last = key.split(".")
    section: Any = config
    for parent in parents:
        section = section[parent] if isinstance(section, ConfigDict) and parent in section else None
    if not isinstance(section, ConfigDict) or last not in section:
        near = did_you_mean(key, flatten(to_dict(config)))
        raise ConfigError(
            f"unknown config key config.{key}{near or '.'} All keys are in {shipped.keys()}"
        )
    if isinstance(section[last], ConfigDict):
        own = list(section[last])
        hint = f"set config.{key}.name, or another" if "name" in own else "set one"
        raise ConfigError(f"config.{key} is a section; {hint} of its keys: {own}")
    section[last] = _value(key, text, section.get_type(last))


def split_list(text: str) -> list[str]:
    """Returns the values of a list such as '1e-3,3e-4'; commas inside brackets do not divide.

    Example:
      >>> split_list("(28,28),(32,32)")
      ['(28,28)', '(32,32)']
    """
    return re.split(r",(?![^(\[]*[)\]])", text)


def _value(key: str, text: str, kind: type) -> Any:
    """Returns the value that a text says, if it is one of that type."""
    if text in ("None", "none"):
        return None
    value = text if kind is str else _literal(text)
    if kind is tuple and not isinstance(value, tuple | list):
        value = tuple(map(_literal, text.split(",")))
    number = isinstance(value, int | float) and not isinstance(value, bool)
    legal = {
        float: number and math.isfinite(value),
        int: number and isinstance(value, int),
        bool: isinstance(value, bool),
        object: (number and math.isfinite(value)) or isinstance(value, tuple | list),
    }
    if not legal.get(kind, True):
        names = {float: "a number", int: "a whole number", bool: "true or false"}
        expected = names.get(kind, "a number or a tuple of numbers")
        raise ConfigError(f"config.{key} must be {expected}, got {text!r}")
    return tuple(value) if isinstance(value, list) else float(value) if kind is float else value


def _literal(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text


def _frame(error: Exception, path: str) -> traceback.FrameSummary | None:
    """Returns the file's own last line on the way to an error."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).resolve() == Path(path).resolve()]
    return own[-1] if own else None


def _line(error: Exception, path: str) -> str:
    """Returns ', line N (its text)' of a config file."""
    if isinstance(error, SyntaxError):
        return f", line {error.lineno}"
    frame = _frame(error, path)
    return f", line {frame.lineno} ({frame.line})" if frame else ""


def _reason(error: Exception, path: str) -> str:
    """Returns what went wrong, in one line."""
    text = " ".join(str(error).strip("\"'").replace('\\"', '"').replace("\\n", " ").split())
    unknown = re.match(r'Key "(.*?)" does not exist|(\w+)$', text)
    where = traceback.extract_tb(error.__traceback__)[-1].filename if unknown else ""
    if isinstance(error, AttributeError | KeyError) and Path(where).stem == "config_dict":
        key = unknown[1] or unknown[2]
        frame = _frame(error, path)  # `config.optim.lr = 1`, or `optim.lr = 1`: of which section
        said = re.search(rf"([\w.]+)\.{re.escape(key)}\b", frame.line or "") if frame else None
        section = said[1].removeprefix("config").strip(".") if said else ""
        known = flatten(to_dict(load(str(shipped.FOLDER / "default.py"))))
        near = did_you_mean(f"{section}.{key}".strip("."), known)
        return f"unknown key '{key}'{near or '.'} All keys are in {shipped.keys()}"
    return f"{type(error).__name__}: {text[:300]}"
