"""Damage to a file, as disks, copies and people do it."""

from __future__ import annotations

import random
from pathlib import Path

KINDS = ("flip", "cut", "empty", "longer", "zeros", "text", "exchange")


def damage(file: Path, kind: str, chance: random.Random, other: bytes = b"") -> None:
    """Change a file's bytes. other: the bytes of a sound file, for "exchange"."""
    data = bytearray(file.read_bytes())
    at = chance.randrange(len(data))
    if kind == "flip":
        data[at] ^= 1 << chance.randrange(8)
    elif kind == "cut":
        del data[at:]
    elif kind == "empty":
        data.clear()
    elif kind == "longer":
        data += chance.randbytes(1 + at % 64)
    elif kind == "zeros":
        data[at : at + 64] = bytes(len(data[at : at + 64]))
    elif kind == "text":
        data[:] = b'{"musc_fast": 1}\n'
    else:
        data[:] = other
    file.write_bytes(data)
