"""Names as people see them: on a terminal, in tables that a spreadsheet opens.

A name comes from a disk or from somebody's table; it may hold anything.
"""

from __future__ import annotations

import csv
import os
import re
import unicodedata
from typing import Any, TextIO

# What a spreadsheet may take for a formula where a cell begins with it.
_FORMULA = re.compile(r"[=+\-@\t\r]")


def shown(name: object, *, lines: bool = False) -> str:
    """`name` on one line, in characters that any terminal takes and that move nothing.

    Control and formatting characters (escape sequences, line breaks, marks that reverse the order
    of writing) are written as in a Python string; bytes that are not UTF-8 become U+FFFD.

    lines: line breaks stay, in a text that is not a name alone.
    """
    text = str(name).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return "".join(
        each
        if (lines and each == "\n") or unicodedata.category(each) not in ("Cc", "Cf", "Zl", "Zp")
        else each.encode("unicode_escape").decode("ascii")
        for each in text
    )


def path_cell(path: str | os.PathLike[str]) -> str:
    """A path for a cell of a CSV file: one that a spreadsheet would compute begins with ./ instead.

    The path stays the same file.
    """
    text = os.fspath(path)
    return os.path.join(os.curdir, text) if _FORMULA.match(text) else text


def text_cell(text: str) -> str:
    """A text for a cell of a CSV file; an apostrophe before one that begins like a formula."""
    return f"'{text}" if _FORMULA.match(text) else text


def table_writer(file: TextIO) -> Any:
    """The csv.writer of every table that is written: its lines end as those of other text files.

    Python's own default, a carriage return before each line feed, hides the last column from grep
    and awk.
    """
    return csv.writer(file, lineterminator="\n")
