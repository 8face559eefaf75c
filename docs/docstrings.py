"""Writes this project's docstrings as griffe reads them, while the site is built.

"Example:" becomes the section "Examples:", whose doctests are shown as code; "a, b: both." becomes
an entry for each argument; the fields that a class's text explains, "name: for people. loss: ...",
become a list.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import griffe

_HEAD = re.compile(r"^Example:$", flags=re.M)
_NAMES = r"\*{0,2}\w+(?:, \*{0,2}\w+)+"  # more than one argument
_ENTRY = re.compile(rf"^(  )({_NAMES}): (.*(?:\n(?:   +.*)?(?=\n|$))*)", flags=re.M)


class Sections(griffe.Extension):
    """Changes the text of every docstring before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **kwargs) -> None:
        """Rewrites one docstring."""
        if obj.docstring is not None:
            obj.docstring.value = rewritten(obj.docstring.value)
            if obj.is_class:
                fields = [name for name, member in obj.members.items() if member.is_attribute]
                obj.docstring.value = listed(obj.docstring.value, fields)


def rewritten(text: str) -> str:
    """Returns a docstring with its examples and its arguments as griffe wants them."""
    text = _HEAD.sub("Examples:", text)
    head, args, rest = text.partition("\nArgs:\n")
    section, blank, after = rest.partition("\n\n")

    def split(found: re.Match) -> str:
        indent, names, words = found.groups()
        return "\n".join(f"{indent}{name}: {words}" for name in names.split(", "))

    return head + args + _ENTRY.sub(split, section) + blank + after


def listed(text: str, fields: Sequence[str]) -> str:
    """Returns a docstring in which each field, or several together, begins an entry of a list."""
    if not fields:
        return text
    head, args, rest = text.partition("\nArgs:\n")
    one = "|".join(map(re.escape, fields))
    entry = re.compile(rf"(?:(?<=\n)|(?<=[.;] )|(?<=[.;]\n))((?:{one})(?:, (?:{one}))*):\s")
    return entry.sub(r"\n\n- `\1`: ", head) + args + rest
