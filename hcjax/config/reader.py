"""Configs at the top of the project: read every key, name the wrong ones, compare and store.

In: an `ml_collections.ConfigDict` (or nested dicts; `configfile` makes one from a file and the
command line). Out: plain values for `run`, which hands them on as keyword arguments; nothing
below `run` sees a config.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from hcjax.config.keys import did_you_mean
from hcjax.errors import ConfigError

# Keys that decide where and how a run computes, not what: they may differ on a resume.
PRACTICAL = ("platform", "cache_dir", "profile_steps", "data.threads")


class Reader:
    """A section of a config that remembers which of its keys were read.

    Args:
      values: nested mapping.
      path: 'optim' for config.optim, '' for the whole.

    Example:
      >>> config = Reader({"seed": 1, "optim": {"name": "adam", "b1": None, "b2": 0.9}})
      >>> config.get("seed"), config.section("optim").get("name")
      (1, 'adam')
      >>> config.section("optim").optional("b1") is None
      True
      >>> config.section("optim").rest()
      {'b2': 0.9}
      >>> config.unread()
      []
    """

    def __init__(self, values: Mapping[str, Any], path: str = "", read: set | None = None):
        self._values, self._path = to_dict(values), path
        self._read = set() if read is None else read

    def _full(self, key: str) -> str:
        return f"{self._path}.{key}" if self._path else key

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def get(self, key: str) -> Any:
        """Returns a value and marks it as read; one that is not there, or None, is an error."""
        value = self.optional(key)
        if value is None:
            raise ConfigError(f"config.{self._full(key)} must have a value, it is None")
        return value

    def optional(self, key: str) -> Any:
        """Returns a value that may be None and marks it as read."""
        if key not in self._values:
            raise ConfigError(f"the config has no key config.{self._full(key)}, which is needed")
        self._read.add(self._full(key))
        return self._values[key]

    def section(self, key: str) -> Reader:
        """Returns a sub-section, which shares this one's memory."""
        if not isinstance(self._values.get(key), dict):
            raise ConfigError(f"the config needs a section config.{self._full(key)}")
        return Reader(self._values[key], self._full(key), self._read)

    def rest(self) -> dict[str, Any]:
        """Returns the keys that were not read yet and are not None: options of what was named.

        Whoever takes them checks their names, so they count as read.
        """
        keys = [k for k, v in self._values.items() if self._full(k) not in self._read]
        self._read.update(self._full(k) for k in keys)
        return {k: self._values[k] for k in keys if self._values[k] is not None}

    def unread(self) -> list[str]:
        """Returns the full names of keys that hold a value and that nobody read."""
        return [
            name for name, value in flatten(self._values).items()
            if value is not None and not self._was_read(name)
        ]  # fmt: skip

    def check_unread(self) -> None:
        """Raises ConfigError if a key holds a value and nobody read it, naming the nearest."""
        unread = self.unread()
        if not unread:
            return
        name = unread[0]
        raise ConfigError(
            f"nothing in this run reads config.{name}{did_you_mean(name, self._read)} (unknown, or "
            f"an option of something that this config does not use)"
        )

    def _was_read(self, name: str) -> bool:
        parts = name.split(".")
        return any(".".join(parts[:i]) in self._read for i in range(1, len(parts) + 1))


def to_dict(config: Any) -> dict[str, Any]:
    """Returns a config as nested dicts, with tuples as lists: what its JSON reads back as.

    Example:
      >>> to_dict({"a": {"b": (1, 2)}})
      {'a': {'b': [1, 2]}}
    """
    plain = config.to_dict() if hasattr(config, "to_dict") else config

    def convert(value):
        if isinstance(value, Mapping):
            return {str(k): convert(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [convert(v) for v in value]
        return value

    return convert(plain)


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns {'optim.name': 'adam', ...} for nested mappings.

    Example:
      >>> flatten({"seed": 0, "optim": {"name": "adam"}})
      {'seed': 0, 'optim.name': 'adam'}
    """
    return dict(_leaves(values, prefix))


def _leaves(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def differences(ours: Any, theirs: Any) -> dict[str, tuple[Any, Any]]:
    """Returns {key: (ours, theirs)} of the keys that differ, without practical ones.

    Example:
      >>> differences({"seed": 0, "platform": "cpu"}, {"seed": 1, "platform": "gpu"})
      {'seed': (0, 1)}
    """
    a, b = _spelt_out(ours), _spelt_out(theirs)
    keys = [k for k in {**a, **b} if k not in PRACTICAL and a.get(k) != b.get(k)]
    return {k: (a.get(k), b.get(k)) for k in keys}


# what keys of classification were before there were other tasks, and mean by themselves now
_USUAL = {"loss.name": "cross_entropy", "train.monitor": "nll", "distill.loss": "kl"}


def _spelt_out(config: Any) -> dict[str, Any]:
    """Returns the keys of a config, also of one that was written before there were tasks."""
    flat = {"task": "classification"} | flatten(to_dict(config))
    usual = _USUAL if flat["task"] == "classification" else {}
    return flat | {k: v for k, v in usual.items() if k in flat and flat[k] is None}


def fingerprint(config: Any) -> str:
    """Returns 8 hexadecimal digits that differ for configs that train differently."""
    flat = {k: v for k, v in flatten(to_dict(config)).items() if k not in PRACTICAL}
    text = json.dumps(sorted(flat.items()), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]
