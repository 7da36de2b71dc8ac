"""Shared by all tests: converted models are kept in a folder of the test run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from musc_fast.features.engines import model_cache


@pytest.fixture(scope="session", autouse=True)
def _converted_models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("converted")
        patch.setattr(model_cache, "cache_folder", lambda: folder)
        yield
