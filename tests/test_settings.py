"""Settings are checked when they are made, and hold what was given as tuples."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from musc_fast.errors import InputError
from musc_fast.settings import ScoringSettings, SearchOptions, Window


def test_sequences_are_held_as_tuples() -> None:
    settings = ScoringSettings([np.int64(1), 5], [0, 0.5], range(1, 3))  # type: ignore[arg-type]
    assert settings.degrees == (1, 5)
    assert type(settings.degrees[0]) is int
    assert settings.topmin == (0, 0.5)
    assert settings.neighbors == (1, 2)
    assert settings == ScoringSettings((1, 5), (0, 0.5), (1, 2))


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"degrees": (2,)}, "degrees: found"),
        ({"degrees": ()}, "degrees: found"),
        ({"degrees": 3}, "degrees: found 3"),
        ({"topmin": (0.1,)}, "topmin: found"),
        ({"topmin": (-1, 0.3)}, "topmin: found"),
        ({"topmin": (0, float("nan"))}, "topmin: found"),
        ({"neighbors": (0,)}, "neighbors: found"),
        ({"backend": ["cpu"]}, "backend: found"),
        ({"precision": "double"}, "precision: found 'double', wanted one of exact, fast"),
        ({"memory_limit": 0}, "memory_limit: found 0"),
        ({"memory_limit": 1.5}, "memory_limit: found 1.5"),
        ({"max_references": 0}, "max_references: found 0"),
        ({"place": -1}, 'place: found -1, wanted "off", "auto" or a number of places'),
        ({"place": True}, "place: found True"),
        ({"place": "near"}, "place: found 'near'"),
    ],
)
def test_wrong_settings_are_named(keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ScoringSettings(**keywords)


def test_search_takes_its_share_of_the_settings() -> None:
    options = ScoringSettings(precision="fast", memory_limit=7).search((2, 3), print)
    assert options == SearchOptions("fast", 7, print)
    near = ScoringSettings(place=1).search((2, 3))
    assert near.window == Window((2, 3), 1)
    with pytest.raises(InputError, match='place: "auto" is decided before the search'):
        ScoringSettings(place="auto").search((2, 3))
    assert not options.exact
    with pytest.raises(InputError, match="precision"):
        SearchOptions("quick")


def test_keywords_make_the_same_settings_again() -> None:
    settings = ScoringSettings((3,), (1, 4), (2,), "torch", "fast", 9, 8)
    assert ScoringSettings(**settings.keywords()) == settings


def test_settings_need_no_torch() -> None:
    code = "import sys, musc_fast.settings; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
