"""The plan of device memory: arithmetic, its limits, and the retry."""

from __future__ import annotations

import pytest
import torch

from musc_fast.backends.triton.planning import (
    Shape,
    copies,
    least_room,
    limit_of,
    operand_bytes,
    plan_search,
)
from musc_fast.errors import BackendError, InputError

GIB = 2**30


def test_4000_images_fit_24_gigabytes() -> None:
    shape = Shape(4000, 1369, 4000, 1369, 768, True)
    limit = int(0.9 * 24 * GIB)
    plan = plan_search(shape, limit, operand=2 * 768, streamed=True)
    assert plan.bytes <= limit
    assert plan.chunk >= 100
    assert plan.block is not None
    # By hand: operands, norms and bounds; two blocks; a chunk's rows and (patch, image) entries;
    # the list of candidates, for which the temporaries of one image before it leave room.
    operands = 4000 * 1369 * (2 * 768 + 12)
    assert operand_bytes(shape, 2 * 768) == operands
    rows = 4 * 768 * 1369
    chunk = plan.chunk * (16 * 4000 * 1369 + rows)
    assert plan.bytes == operands + 2 * plan.block * rows + chunk + 12 * plan.room
    assert 12 * plan.room >= 4 * 16 * 4000 * 1369 - 12
    # The rows themselves (16 GB) would not have fitted beside them.
    assert plan.bytes + 4000 * rows > 24 * GIB


def test_a_small_batch_is_one_chunk() -> None:
    plan = plan_search(Shape(200, 1369, 200, 1369, 1024, True), 70 * GIB, operand=128)
    assert plan.chunk == 200
    assert plan.block is None


def test_chunks_are_even_and_shrink_with_the_limit() -> None:
    shape = Shape(100, 256, 100, 256, 384, True)
    whole = plan_search(shape, 4 * GIB, operand=768)
    assert whole.chunk == 100
    least = plan_search(shape, 170 << 20, operand=768)
    assert least.chunk < 100
    assert least.bytes <= 170 << 20
    assert least.room >= least_room(shape)
    chunks = -(-100 // least.chunk)
    assert least.chunk * chunks - 100 < chunks


def test_one_launch_never_exceeds_what_a_grid_can_hold() -> None:
    shape = Shape(20_000, 1369, 20_000, 1369, 64, True)
    plan = plan_search(shape, 1 << 42, operand=128)
    assert plan.chunk * shape.others * (-(-1369 // 32)) ** 2 < 2**31 - 1


def test_too_little_memory_says_how_much_is_needed() -> None:
    with pytest.raises(InputError, match=r"memory_limit: this search needs at least \d+ MiB"):
        plan_search(Shape(200, 1369, 200, 1369, 1024, True), 1 << 20, operand=2048)


def test_limits_and_copies() -> None:
    assert limit_of(torch.device("cpu"), 123) == 123
    assert limit_of(torch.device("cpu"), None) > 0
    z = torch.zeros(3, 4, 5)
    assert copies(z, None) == 0
    assert copies(z.double(), None) == 3 * 4 * 5 * 4
    assert copies(z[:, 1:], z.half()[:, 1:]) == 3 * 3 * 5 * (4 + 2)


def test_out_of_memory_is_tried_once_more_with_half() -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    from musc_fast.backends.triton.operators import with_retry

    limits: list[int] = []

    def fails(times: int) -> None:
        limits.clear()

        def run(limit: int) -> None:
            limits.append(limit)
            if len(limits) <= times:
                raise torch.OutOfMemoryError

        with_retry(run, torch.device("cpu"), 1000)

    fails(0)
    assert limits == [1000]
    fails(1)
    assert limits == [1000, 500]
    with pytest.raises(BackendError, match="ran out of memory with a plan for"):
        fails(2)
    assert limits == [1000, 500]
