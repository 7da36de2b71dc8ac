"""Reading the command's option texts; every function raises InputError naming the option."""

from __future__ import annotations

import re

from .errors import InputError

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 2**10, "MI": 2**20, "GI": 2**30}


def numbers(option: str, text: str) -> list[float]:
    """ "1,3,5" -> [1.0, 3.0, 5.0]."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"{option}: found {text!r}, wanted numbers with commas") from None


def whole_numbers(option: str, text: str) -> tuple[int, ...]:
    """ "1,3,5" -> (1, 3, 5)."""
    values = numbers(option, text)
    if any(value != int(value) for value in values):
        raise InputError(f"{option}: found {text!r}, wanted whole numbers with commas")
    return tuple(int(value) for value in values)


def size(option: str, text: str | None) -> int | tuple[int, int] | None:
    """ "392" -> 392, "392,784" -> (392, 784) as height, width."""
    if text is None:
        return None
    values = whole_numbers(option, text.replace("x", ","))
    if len(values) > 2 or min(values) < 1:
        raise InputError(f"{option}: found {text!r}, wanted one side or HEIGHT,WIDTH in pixels")
    return values[0] if len(values) == 1 else (values[0], values[1])


def pair(option: str, text: str) -> tuple[float, float]:
    """ "0,0.3" -> (0.0, 0.3)."""
    values = numbers(option, text)
    if len(values) != 2:
        raise InputError(f"{option}: found {text!r}, wanted two numbers, as 0,0.3")
    return values[0], values[1]


def byte_count(option: str, text: str | None) -> int | None:
    """ "4GB", "500 MiB", "1e9" -> bytes."""
    if text is None:
        return None
    match = re.fullmatch(r"\s*([0-9.]+(?:e[0-9]+)?)\s*([KMG]I?)?B?\s*", text, re.IGNORECASE)
    if match is None:
        raise InputError(f"{option}: found {text!r}, wanted a size as 4GB, 500MiB or bytes")
    return int(float(match[1]) * _UNITS[(match[2] or "").upper()])
