"""Option texts become values, and a command's options arguments of MuSc."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import typer

from musc_fast.cli import options
from musc_fast.errors import InputError
from musc_fast.threshold import RULES


def test_sizes_and_bytes() -> None:
    assert options.size("--size", "392") == 392
    assert options.size("--size", "392,784") == (392, 784)
    assert options.byte_count("--memory-limit", "4GB") == 4 * 10**9
    assert options.byte_count("--memory-limit", "1.5 GiB") == 3 * 2**29
    assert options.byte_count("--memory-limit", "1000") == 1000
    with pytest.raises(InputError, match="whole numbers"):
        options.whole_numbers("--degrees", "1.5")


def arguments(**params: Any) -> dict[str, Any]:
    return options.musc_arguments(cast(typer.Context, SimpleNamespace(params=params)))


def test_options_become_arguments_of_musc() -> None:
    found = arguments(
        images=[Path("a")],
        backbone="b",
        size="96x128",
        topmin="0,2",
        rscin=False,
        weights=None,
        copies="off",
        repeats="auto",
    )
    assert found == {
        "backbone": "b",
        "image_size": (96, 128),
        "topmin": (0.0, 2.0),
        "use_cls": False,
        "weights": None,
        "copies": "off",
        "repeats": "auto",
    }
    assert arguments(size=None, memory_limit=None) == {"image_size": None, "memory_limit": None}
    with pytest.raises(InputError, match="--memory-limit: found 'lots'"):
        arguments(memory_limit="lots")


def test_the_help_names_every_rule() -> None:
    assert options.RULE_NAMES == RULES
