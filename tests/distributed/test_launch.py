"""Image files shared among ranks, and the command under torchrun."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ranks_run
import torch
import torch.distributed as dist
from forked import CONTEXT
from outlines import moved_boards
from tiny import TINY, product_folder, tiny_weights

from musc_fast import MuSc
from musc_fast.distributed.launch import launched

pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available() and sys.platform == "linux"),
    reason="needs torch.distributed with gloo, on Linux",
)


@pytest.mark.parametrize(
    ("rank", "size", "expected"),
    [("1", "3", (1, 3)), ("0", "1", (0, 1)), ("1", "1", (0, 1)), ("first", "2", (0, 1))],
)
def test_launched_reads_the_environment(
    rank: str, size: str, expected: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", size)
    assert launched() == expected


def shares(size: int, out: Path, weights: Path, paths: list[Path], skip_bad: bool) -> list[Any]:
    """What every rank gets from `extract_share`, or the text of its error."""
    arguments = (size, out, weights, paths, skip_bad)
    children = [
        CONTEXT.Process(target=ranks_run.extract, args=(rank, *arguments)) for rank in range(size)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0] * size
    return [torch.load(out.with_suffix(f".{rank}"), weights_only=False) for rank in range(size)]


def test_shares_are_the_images_of_one_process(tmp_path: Path) -> None:
    weights = tiny_weights(tmp_path)
    paths = product_folder(tmp_path / "images", count=7)
    paths[2].write_bytes(b"no image")
    whole = MuSc(TINY, weights=weights, recipe="paper").extract(paths, skip_bad=True)
    results = shares(3, tmp_path / "out", weights, paths, True)
    for batch, _ in results:
        for name in ("names", "sources", "sizes", "bad"):
            assert getattr(batch, name) == getattr(whole, name)
        assert batch.tokens == ()
        assert batch.cls_tokens.shape == (0, 64)
    layers = zip(*(share.tokens for _, share in results), strict=True)
    for layer, expected in zip(layers, whole.tokens, strict=True):
        torch.testing.assert_close(torch.cat(layer), expected)
    (batch, none), (_, share) = shares(2, tmp_path / "few", weights, paths[:1], True)
    assert none is None
    assert batch.names == share.names == (str(paths[0]),)
    assert batch.cls_tokens is not None


def test_an_unreadable_image_is_an_error_on_every_rank(tmp_path: Path) -> None:
    weights = tiny_weights(tmp_path)
    paths = product_folder(tmp_path / "images", count=4)
    paths[3].write_bytes(b"no image")
    for text in shares(2, tmp_path / "out", weights, paths, False):
        assert "1 of 4 images cannot be read" in text
        assert "part3.png" in text


def test_torchrun_writes_what_the_plain_command_writes(tmp_path: Path) -> None:
    weights = tiny_weights(tmp_path)
    moved_boards(tmp_path / "images", count=7)
    line = ["-m", "musc_fast", "score", str(tmp_path / "images"), "--align", "auto"]
    line += ["--size", "96", "--backbone", TINY, "--weights", str(weights), "--engine", "torch"]
    subprocess.run([sys.executable, *line, "--out", str(tmp_path / "one")], check=True)
    ranks = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*ranks, *line, "--out", str(tmp_path / "two")], check=True, capture_output=True, text=True
    )
    assert (tmp_path / "two" / "scores.csv").read_bytes() == (
        tmp_path / "one" / "scores.csv"
    ).read_bytes()
    one, two = (sorted((tmp_path / out / "maps").glob("*.npy")) for out in ("one", "two"))
    assert [path.read_bytes() for path in two] == [path.read_bytes() for path in one]
    runs = [json.loads((tmp_path / out / "run.json").read_text()) for out in ("one", "two")]
    for run in runs:
        assert run["align_moved"] == 6
        assert run["align_frame"] == runs[0]["align_frame"]
    assert done.stdout.count("results:") == 1


def test_a_command_that_knows_no_ranks_says_so_once(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "musc_fast", "watch", str(tmp_path), "--bank"]
    ranks = [
        subprocess.Popen(
            [*line, str(tmp_path / "bank")],
            env={**os.environ, "RANK": rank, "WORLD_SIZE": "2"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    said = "".join(rank.communicate()[1] for rank in ranks)
    assert all(rank.returncode for rank in ranks)
    assert said.count("of the commands only score runs under torchrun") == 1
