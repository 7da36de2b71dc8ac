"""The memory limit of a search, and the second run where the device runs out of memory."""

from __future__ import annotations

import pytest
import torch

from musc_fast.backends.triton.device import limit_of, with_retry
from musc_fast.errors import BackendError

CPU = torch.device("cpu")


def test_limits() -> None:
    assert limit_of(CPU, 123) == 123
    assert limit_of(CPU, None) > 0


def test_out_of_memory_is_tried_once_more_with_half() -> None:
    limits: list[int] = []

    def fails(times: int) -> None:
        limits.clear()

        def run(limit: int) -> None:
            limits.append(limit)
            if len(limits) <= times:
                raise torch.OutOfMemoryError

        with_retry(run, CPU, 1000)

    fails(0)
    assert limits == [1000]
    fails(1)
    assert limits == [1000, 500]
    with pytest.raises(BackendError, match="ran out of memory with a plan for"):
        fails(2)
    assert limits == [1000, 500]
