"""Shared by all tests: a folder for converted models, fp32 unless one asks for another, threads."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from musc_fast.features import precision
from musc_fast.features.engines import model_cache


@pytest.fixture(scope="session", autouse=True)
def _converted_models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("converted")
        patch.setattr(model_cache, "cache_folder", lambda: folder)
        yield


@pytest.fixture(scope="session", autouse=True)
def _fp32_on_every_processor() -> Iterator[None]:
    """The bounds of the tests are those of fp32, also where "auto" would take bf16."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(precision, "native_bf16", lambda: False)
        yield


@pytest.fixture
def threads() -> Iterator[None]:
    """Restores torch's number of threads after the test."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
