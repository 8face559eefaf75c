"""Which key of a config was meant by one that is not there."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher

from hcjax.errors import USUAL_KEYS, nearest, plain

_KINDS = ("type", "kind", "class", "method")  # what else a section's `name` is called


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns '; did you mean config.KEY?' with the keys nearest to a name, or ''.

    A key whose last part is the same, or is what the field calls so (`errors.USUAL_KEYS`), goes
    first, in the same section if there is one; then one that is alike.

    Args:
      name: the wrong key, e.g. "optim.lr".
      known: the keys there are.

    Example:
      >>> did_you_mean("learning_rate", ["seed", "optim.learning_rate"])
      '; did you mean config.optim.learning_rate?'
      >>> did_you_mean("prune.lr", ["optim.learning_rate", "optim.rms", "prune.learning_rate"])
      '; did you mean config.prune.learning_rate?'
    """
    near = [f"config.{key}" for key in _nearest_keys(name, sorted(known))]
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _nearest_keys(name: str, known: list[str]) -> list[str]:
    """Returns at most three keys, the likeliest first."""
    if same := [key for key in known if plain(key) == plain(name)]:
        return same
    section, _, last = name.rpartition(".")
    mine = [key for key in known if section and _section(key) == section]
    usual = USUAL_KEYS.get(plain(name), "")
    if usual in known:
        return [usual]
    if f"{section}.name" in mine and plain(last) in (*_KINDS, plain(section)):
        return [f"{section}.name"]
    usual = USUAL_KEYS.get(plain(last), "")
    for keys in (mine, known):
        same = [key for key in keys if plain(_last(key)) == plain(last) != ""]
        same = same or [key for key in keys if usual and _is(key, usual)]
        if not same and (keys is mine or not mine):  # words or letters in common
            found = nearest(last, {_last(key) for key in keys})
            same = [key for key in keys if _last(key) in found]
        if same:
            break
    if not same and not section:  # `mixup_alpha`
        same = [key for key in known if len(last) > 4 and plain(key).endswith(plain(last))]
    likeness = {key: SequenceMatcher(None, section, _section(key)).ratio() for key in same}
    if section and max(likeness.values(), default=0) >= 0.7:
        return [max(same, key=likeness.__getitem__)]
    return [usual] if usual in same else same[:3]


def _is(key: str, usual: str) -> bool:
    """Tells whether a key is the usual one, or its like in another section."""
    return key == usual or _last(key) == _last(usual) != "name"


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def _section(key: str) -> str:
    return key.rpartition(".")[0]
