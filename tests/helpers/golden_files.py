"""Golden outputs of the official code: three cases lie in the repository, all in ../shared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

TESTS = Path(__file__).resolve().parents[1]
SHARED = TESTS.parent.parent / "shared"
CASES = (
    "default_small",
    "four_images",
    "integer_k",
    "interval_band",
    "odd_channels",
    "swapped_interval",
    "two_images_full",
)


def golden(name: str) -> dict[str, NDArray[Any]]:
    """The arrays of a case; skips the test where the file is not at hand."""
    for folder in (TESTS / "golden", SHARED / "golden"):
        path = folder / f"{name}.npz"
        if path.is_file():
            with np.load(path) as arrays:
                return dict(arrays)
    pytest.skip(f"{name}.npz is not at hand (neither in tests/golden nor in ../shared/golden)")
