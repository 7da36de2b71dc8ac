"""A reference bank as bytes, for estimators that are pickled or copied."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from ..bank.reference_bank import ReferenceBank


def bytes_of(bank: ReferenceBank) -> bytes:
    """The bank's file, complete and with its checksum."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "bank.safetensors")
        bank.save(path)
        return path.read_bytes()


def bank_of(data: bytes, **settings: Any) -> ReferenceBank:
    """The bank that `bytes_of` wrote.

    settings: backend, precision, memory_limit and device, as for `ReferenceBank.load`.

    Raises BankError where the bytes are damaged.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "bank.safetensors")
        path.write_bytes(data)
        return ReferenceBank.load(path, **settings)
