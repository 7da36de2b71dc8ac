"""The planner: arithmetic on sizes alone."""

from __future__ import annotations

import pytest

from musc_fast.backends.cpu import planning
from musc_fast.errors import InputError

MIB = 1 << 20


def plan(images: int = 100, limit: int | None = 4096 * MIB, **how: object) -> planning.Plan:
    sizes = {"patches": 1369, "reference_patches": 1369, "words": 16, "extra": 600}
    references = how.pop("references", images)
    symmetric = references == images
    return planning.plan_search(
        images=images,
        references=references,
        columns=references,
        symmetric=symmetric,
        memory_limit=limit,
        **{**sizes, **how},
    )


def test_everything_in_one_chunk_where_it_fits() -> None:
    found = plan()
    assert (found.chunk, found.segment) == (100, planning.finest_segment(16))
    # Long rows are worth finer segments: scanning one again costs more.
    assert plan(words=96).segment == planning.finest_segment(96) < found.segment


@pytest.mark.parametrize("limit", [300, 350, 500, 1000, 4000])
def test_the_estimate_is_within_the_limit(limit: int) -> None:
    found = plan(limit=limit * MIB)
    assert found.bytes <= limit * MIB
    assert 1 <= found.chunk <= 100


def test_less_memory_first_takes_larger_segments_then_smaller_chunks() -> None:
    chunks = [plan(limit=limit * MIB, words=96) for limit in (4000, 400, 130)]
    assert [p.chunk for p in chunks] == sorted((p.chunk for p in chunks), reverse=True)
    assert chunks[1].chunk == 100
    assert chunks[1].segment > chunks[0].segment
    assert chunks[2].chunk < 100


def test_chunks_are_even() -> None:
    for limit in range(120, 420, 10):
        chunk = plan(limit=limit * MIB).chunk
        chunks = -(-100 // chunk)
        assert chunk * (chunks - 1) < 100 <= chunk * chunks
        assert chunk == -(-100 // chunks)


def test_references_add_their_operands() -> None:
    own = plan(images=10, references=50)
    assert own.chunk == 10
    assert own.bytes > planning.operand_bytes(60, 1369, 16, 600)


def test_operands_that_do_not_fit_lie_in_a_file() -> None:
    assert not plan(limit=300 * MIB).mapped
    found = plan(limit=90 * MIB)
    assert found.mapped
    assert found.bytes <= 90 * MIB < planning.operand_bytes(100, 1369, 16, 600)


def test_impossible_limits_name_what_is_needed() -> None:
    with pytest.raises(InputError, match=r"at least (\d+) MiB") as caught:
        plan(limit=10 * MIB)
    needed = int(str(caught.value).split("at least ")[1].split(" MiB")[0]) + 1
    assert plan(limit=needed * MIB).chunk >= 1


def test_padding() -> None:
    assert [planning.padded(p) for p in (1, 16, 17, 1369)] == [16, 16, 32, 1376]


def test_no_limit_takes_a_share_of_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "free_memory", lambda: 700 * MIB)
    assert plan(limit=None).bytes <= 350 * MIB
