"""The plan of device memory: arithmetic and its limits."""

from __future__ import annotations

from dataclasses import replace

import pytest

from musc_fast.backends.triton.planning import (
    Shape,
    image_bytes,
    least_room,
    plan_search,
    rounded_bytes,
)
from musc_fast.errors import InputError

GIB = 2**30


def batch(images: int, patches: int, channels: int) -> Shape:
    """The shape of images that are searched in themselves."""
    return Shape(
        images=images,
        patches=patches,
        others=images,
        other_patches=patches,
        channels=channels,
        symmetric=True,
    )


def test_4000_images_fit_24_gigabytes() -> None:
    shape = batch(4000, 1369, 768)
    limit = int(0.9 * 24 * GIB)
    plan = plan_search(shape, limit, row_bytes=2 * 768, streamed=True)
    assert plan.bytes <= limit
    assert plan.chunk >= 100
    assert plan.block is not None
    # By hand: rounded images, norms and bounds; two blocks; a chunk's rows and (patch, image)
    # entries; the list of candidates, which has room where the temporaries of one image were.
    rounded = 4000 * 1369 * (2 * 768 + 12)
    assert rounded_bytes(shape, 2 * 768) == rounded
    rows = 4 * 768 * 1369
    chunk = plan.chunk * (16 * 4000 * 1369 + rows)
    assert plan.bytes == rounded + 2 * plan.block * rows + chunk + 12 * plan.room
    assert 12 * plan.room >= 4 * 16 * 4000 * 1369 - 12
    # The rows themselves (16 GB) would not have fitted beside them.
    assert plan.bytes + 4000 * rows > 24 * GIB


def test_ranges_of_patches_take_two_bytes_each() -> None:
    shape = batch(200, 1369, 1024)
    ranged = replace(shape, ranges=11)
    assert image_bytes(ranged) - image_bytes(shape) == 2 * 11 * 200 * 1369


def test_a_small_batch_is_one_chunk() -> None:
    plan = plan_search(batch(200, 1369, 1024), 70 * GIB, row_bytes=128)
    assert plan.chunk == 200
    assert plan.block is None


def test_chunks_are_even_and_shrink_with_the_limit() -> None:
    shape = batch(100, 256, 384)
    whole = plan_search(shape, 4 * GIB, row_bytes=768)
    assert whole.chunk == 100
    least = plan_search(shape, 170 << 20, row_bytes=768)
    assert least.chunk < 100
    assert least.bytes <= 170 << 20
    assert least.room >= least_room(shape)
    chunks = -(-100 // least.chunk)
    assert least.chunk * chunks - 100 < chunks


def test_one_launch_never_exceeds_what_a_grid_can_hold() -> None:
    shape = batch(20_000, 1369, 64)
    plan = plan_search(shape, 1 << 42, row_bytes=128)
    assert plan.chunk * shape.others * (-(-1369 // 32)) ** 2 < 2**31 - 1


def test_too_little_memory_says_how_much_is_needed() -> None:
    with pytest.raises(InputError, match=r"memory_limit: this search needs at least \d+ MiB"):
        plan_search(batch(200, 1369, 1024), 1 << 20, row_bytes=2048)
