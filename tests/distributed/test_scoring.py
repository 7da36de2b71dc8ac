"""Several ranks: the bits of one process, checkpoints, ranks that die."""

from __future__ import annotations

import random
import re
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import ranks_run
import torch
import torch.distributed as dist
from forked import CONTEXT

from musc_fast import InputError, score_batch
from musc_fast.distributed import score_shard
from musc_fast.distributed.ring import ring_bytes
from musc_fast.errors import MuscFastWarning

pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available() and sys.platform == "linux"),
    reason="needs torch.distributed with gloo, on Linux",
)


def batch(n: int, c: int = 24, p: int = 16) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(n, p, c + k, generator=generator) for k in range(2)]


def started(target: Any, arguments: list[tuple[Any, ...]]) -> list[Any]:
    children = [CONTEXT.Process(target=target, args=each) for each in arguments]
    for child in children:
        child.start()
    return children


def run(counts: list[int], out: Path, layers: list[torch.Tensor], **how: Any) -> dict[str, Any]:
    children = started(
        ranks_run.score, [(rank, counts, out, layers, how) for rank in range(len(counts))]
    )
    for child in children:
        child.join(120)
    assert [child.exitcode for child in children] == [0] * len(counts)
    found: dict[str, Any] = torch.load(out)
    return found


def same(found: dict[str, Any], expected: Any) -> bool:
    equal = all(
        torch.equal(found[key], value)
        for key, value in vars(expected).items()
        if isinstance(value, torch.Tensor)
    )
    return equal and found["place"] == expected.place


@pytest.mark.parametrize("backend", ["cpu", "torch"])
@pytest.mark.parametrize("counts", [[4, 3], [1, 1], [3, 2, 4], [2, 0, 1], [2, 3, 2, 2]])
def test_ranks_give_the_bits_of_one_process(
    tmp_path: Path, counts: list[int], backend: str
) -> None:
    layers = batch(sum(counts))
    classes = torch.randn(sum(counts), 6, generator=torch.Generator().manual_seed(1))
    how: dict[str, Any] = {"backend": backend, "image_size": 9}
    found = run(counts, tmp_path / "out", layers, classes=classes, **how)
    assert same(found, score_batch(layers, cls_tokens=classes, **how))


@pytest.mark.parametrize("counts", [[4, 3], [2, 0, 5]])
def test_patches_that_do_not_count_over_ranks(tmp_path: Path, counts: list[int]) -> None:
    layers, others = batch(7), batch(4)
    valid = torch.rand(11, 16, generator=torch.Generator().manual_seed(1)) < 0.6
    valid[:, 3] = True
    valid[0] = True
    how: dict[str, Any] = {"image_size": 9, "valid": valid[:7]}
    found = run(counts, tmp_path / "out", layers, checkpoint=tmp_path / "kept", **how)
    assert same(found, score_batch(layers, **how))
    how |= {"references": others, "reference_valid": valid[7:]}
    assert same(run(counts, tmp_path / "out2", layers, **how), score_batch(layers, **how))


def test_one_layer_may_be_a_plain_tensor(tmp_path: Path) -> None:
    layers = batch(5)[:1]
    found = run([3, 2], tmp_path / "out", layers, single=True)
    assert same(found, score_batch(layers[0]))


def test_a_rank_without_images_needs_no_backend(tmp_path: Path) -> None:
    layers = batch(5)
    found = run([3, 0, 2], tmp_path / "out", layers, backend="torch", refuses=1)
    assert same(found, score_batch(layers, backend="torch"))


@pytest.mark.parametrize("counts", [[6, 5], [4, 1, 3]])
def test_rounds_of_fewer_queries_give_the_same_bits(tmp_path: Path, counts: list[int]) -> None:
    layers = batch(sum(counts))
    found = run(counts, tmp_path / "out", layers, queries=2)
    assert same(found, score_batch(layers))


def test_patches_near_their_own_place(tmp_path: Path) -> None:
    layers = batch(5)
    found = run([2, 0, 3], tmp_path / "out", layers, place=1)
    assert same(found, score_batch(layers, place=1))
    others = [torch.randn(4, *t.shape[1:]) for t in layers]
    how: dict[str, Any] = {"references": others, "place": "auto", "grid": (2, 8)}
    found = run([2, 3], tmp_path / "referenced", layers, **how)
    with pytest.warns(MuscFastWarning, match="place auto"):
        assert same(found, score_batch(layers, **how))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"place": "auto"}, '"auto" looks at images of the whole batch'),
        ({"place": "auto", "references": batch(1)}, "wants two references or more"),
        ({"place": 1, "valid": torch.arange(64).view(4, 16) > 0}, "some patches do not count"),
    ],
)
def test_windows_that_ranks_cannot_agree_on(tmp_path: Path, how: Any, message: str) -> None:
    """The last one leaves out a patch of the first rank, and is told by both."""
    children = started(
        ranks_run.score,
        [(r, [2, 2], tmp_path / "out", batch(4), how) for r in range(2)],
    )
    for child in children:
        child.join(60)
    for rank in range(2):
        told = (tmp_path / f"out.error{rank}").read_text()
        assert "place: " in told
        assert message in told


def test_too_little_memory_is_told(tmp_path: Path) -> None:
    how = {"memory_limit": 1000}
    children = started(
        ranks_run.score, [(r, [2, 2], tmp_path / "out", batch(4), how) for r in range(2)]
    )
    for child in children:
        child.join(60)
    told = (tmp_path / "out.error0").read_text()
    assert "memory_limit: scoring over 2 ranks needs at least" in told


def test_references_are_those_of_every_rank(tmp_path: Path) -> None:
    layers = batch(9)
    query, others = [t[:5] for t in layers], [t[5:] for t in layers]
    found = run([2, 3], tmp_path / "out", query, references=others, max_references=3)
    assert same(found, score_batch(query, references=others, max_references=3))


def test_a_checkpoint_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    counts, layers = [9, 8], batch(17, p=49)
    expected = score_batch(layers)
    generator = random.Random(0)
    kills = rounds = attempt = 0
    while kills < 8:
        kept = tmp_path / f"kept{rounds}"
        rounds += 1
        stamps: dict[Path, int] = {}
        out = tmp_path / "none"
        while not out.exists():
            attempt += 1
            out = tmp_path / f"out{attempt}"
            how = {"checkpoint": kept, "part": 3}
            children = started(
                ranks_run.score, [(rank, counts, out, layers, how) for rank in range(2)]
            )
            deadline = time.monotonic() + generator.uniform(0.1, 0.3 + 0.05 * attempt)
            while time.monotonic() < deadline and any(child.is_alive() for child in children):
                time.sleep(0.01)
            for child in children:
                kills += child.is_alive()
                child.kill()
                child.join()
            for part in kept.glob("part-*.npy"):  # never made again
                stamp = part.stat().st_mtime_ns
                assert stamps.setdefault(part, stamp) == stamp
        assert same(torch.load(out), expected)
        assert len(stamps) == 6 * (3 + 3)


def test_a_dead_rank_ends_the_others(tmp_path: Path) -> None:
    out = tmp_path / "out"
    how = {"dies": 1, "timeout": 5.0}
    start = time.monotonic()
    children = started(ranks_run.score, [(r, [2, 2, 2], out, batch(6), how) for r in range(3)])
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [1, 7, 1]
    assert time.monotonic() - start < 30
    for rank in (0, 2):
        told = (tmp_path / f"out.error{rank}").read_text()
        assert told.startswith(f"DistributedError: rank {rank} waited for the other ranks")
        assert "more than 5 s behind" in told


def test_wrong_arguments_are_told_on_every_rank(tmp_path: Path) -> None:
    out = tmp_path / "out"
    layers = batch(4)
    layers[1][3, 0, 0] = torch.nan
    children = started(ranks_run.score, [(r, [2, 2], out, layers, {}) for r in range(2)])
    for child in children:
        child.join(60)
    assert "InputError: rank 1: tokens (layer 1): image 1" in (tmp_path / "out.error0").read_text()
    assert "image 1 holds NaN" in (tmp_path / "out.error1").read_text()
    with pytest.raises(InputError, match="not initialised"):
        score_shard(batch(4))


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"timeout": "soon"}, "timeout: found 'soon'"),
        ({"progress": 7}, "progress: found 7"),
        ({"degrees": None}, "degrees: found None"),
        ({"copies": "auto"}, "copies: no rank sees all images"),
        ({"cls_tokens": torch.zeros(9, 2)}, r"cls_tokens: found float32 \[9, 2\]"),
        ({"references": [torch.zeros(2, 16, 5)] * 2}, r"references\[0\]: found \[2, 16, 5\]"),
        ({"references": [layer + 1 for layer in batch(2)]}, "references: rank 1 was given others"),
        ({"checkpoint": "/dev/null/here"}, "/dev/null"),
    ],
)
def test_one_rank_s_wrong_argument_is_told_on_every_rank(
    tmp_path: Path, wrong: dict[str, Any], told: str
) -> None:
    layers, out = batch(5), tmp_path / "out"
    how = {"references": batch(2), "timeout": 60.0, "of_rank": {1: wrong}}
    children = started(ranks_run.score, [(rank, [3, 2], out, layers, how) for rank in range(2)])
    for child in children:
        child.join(120)
    for rank in range(2):
        text = out.with_suffix(f".error{rank}").read_text()
        assert text.startswith("InputError: "), text
        assert re.search(told, text), text


@pytest.mark.parametrize("size", [2, 3])
def test_the_scaling_model_counts_the_bytes_that_are_sent(tmp_path: Path, size: int) -> None:
    each, patches, channels = 4, 25, 12
    z = torch.randn(size * each, patches, channels, generator=torch.Generator().manual_seed(0))
    out = tmp_path / "out"
    children = started(ranks_run.count_bytes, [(rank, size, out, z) for rank in range(size)])
    for child in children:
        child.join(60)
    sent = sum(int((tmp_path / f"out.{rank}").read_text()) for rank in range(size))
    results = (size - 1) * each * 4 * (2 * patches + 1)  # patch scores, maps, raw scores to rank 0
    assert sent == size * ring_bytes(each, size, patches, channels) + results
