"""A Griffe extension: the lines `name: text` of the package's docstrings become a list.

A docstring describes each argument or field in a line "name: text", whose continuation is indented;
Markdown would run such lines together.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_ENTRY = re.compile(r"^([a-z_]\w*(?:, [a-z_]\w*)*): ", re.IGNORECASE)


class DocstringForm(griffe.Extension):
    """Rewrites the docstrings of all objects of a package."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Rewrite them once the package is read."""
        self._rewrite(pkg)

    def _rewrite(self, thing: griffe.Module | griffe.Class) -> None:
        for member in thing.members.values():
            if member.is_alias:
                continue
            if member.docstring is not None:
                member.docstring.value = as_list(member.docstring.value, names_of(member))
            if isinstance(member, griffe.Module | griffe.Class):
                self._rewrite(member)


def names_of(member: Any) -> set[str]:
    """The names that a docstring may describe: parameters of a function, members of a class."""
    if isinstance(member, griffe.Class):
        init = member.members.get("__init__")
        return set(member.members) | (names_of(init) if init is not None else set())
    return {each.name for each in getattr(member, "parameters", ())}


def as_list(docstring: str, names: set[str]) -> str:
    """The docstring with its lines of `names` as items of a list."""
    lines: list[str] = []
    inside = False
    for line in docstring.splitlines():
        entry = _ENTRY.match(line)
        if entry and set(entry[1].split(", ")) <= names:
            if not inside:
                lines.append("")
            lines.append(f"- **{entry[1]}**: {line[entry.end() :]}")
            inside = True
        elif inside and line.startswith("    "):
            lines.append(line)
        else:
            if inside and line:
                lines.append("")
            inside = False
            lines.append(line)
    return "\n".join(lines)
