"""What tests/distributed runs on every rank: importable from a process of its own."""

from __future__ import annotations

import os
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tiny import TINY

from musc_fast import ImageError, MuSc
from musc_fast.backends import registry
from musc_fast.distributed import ring, score_shard
from musc_fast.distributed.launch import extract_share
from musc_fast.distributed.ranks import Ranks
from musc_fast.scoring import checkpoint


def join(rank: int, size: int, meeting: Path) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(meeting), size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size)


def part(layers: list[torch.Tensor], counts: list[int], rank: int) -> list[torch.Tensor] | None:
    """The images of a rank; None where it has none."""
    first = sum(counts[:rank])
    return [t[first : first + counts[rank]] for t in layers] if counts[rank] else None


def score(rank: int, counts: list[int], out: Path, layers: list[torch.Tensor], how: Any) -> None:
    """score_shard on this rank's share; rank 0 saves the scores, a failing rank its error."""
    join(rank, len(counts), out.with_suffix(".meeting"))
    options = dict(how)
    checkpoint._PART = options.pop("part", checkpoint._PART)
    single = options.pop("single", False)
    most = options.pop("queries", None)  # a round, as if memory held no more
    if most is not None:
        ring.round_bytes = lambda queries, *_: 0 if queries <= most else 1 << 60
    if options.pop("refuses", None) == rank:  # no backend but the reference runs on this rank
        registry.BACKENDS = tuple(
            each if each.name == "reference" else replace(each, why_not=lambda device: "refused")
            for each in registry.BACKENDS
        )
    options.update(options.pop("of_rank", {}).get(rank, {}))
    if options.pop("dies", None) == rank:
        os._exit(7)
    try:
        classes = options.pop("classes", None)
        if classes is not None and counts[rank]:
            options["cls_tokens"] = classes[sum(counts[:rank]) : sum(counts[: rank + 1])]
        valid = options.pop("valid", None)
        if valid is not None and counts[rank]:
            [options["valid"]] = part([valid], counts, rank) or [None]
        tokens: Any = part(layers, counts, rank)
        if single and tokens is not None:
            [tokens] = tokens
        found = score_shard(tokens, **options)
        assert (found is None) == (rank > 0)
        if found is not None:
            temporary = out.with_name(f"{out.name}.tmp")
            torch.save(vars(found), temporary)
            temporary.rename(out)  # whole or not at all: a test kills this process
    except Exception as error:
        out.with_suffix(f".error{rank}").write_text(f"{type(error).__name__}: {error}")
        traceback.print_exc()
        os._exit(1)
    dist.destroy_process_group()


def extract(
    rank: int, size: int, out: Path, weights: Path, paths: list[Path], skip_bad: bool
) -> None:
    """extract_share on every rank; each saves what it returns, or the text of its ImageError."""
    join(rank, size, out.with_suffix(".meeting"))
    ranks = Ranks()
    result: Any
    try:
        # With class tokens; in fp32, which the test process computes in, too.
        musc = MuSc(TINY, weights=weights, recipe="paper", feature_precision="fp32")
        result = extract_share(
            ranks, musc, paths, skip_bad=skip_bad, on_progress=lambda stage, done, total: None
        )
    except ImageError as error:
        result = str(error)
    torch.save(result, out.with_suffix(f".{rank}"))
    ranks.close()
    dist.destroy_process_group()


def count_bytes(rank: int, size: int, out: Path, z: torch.Tensor) -> None:
    """One ring with both directions; every rank writes the bytes of tensors it sent."""
    join(rank, size, out.with_suffix(".meeting"))
    sent: list[int] = []
    close = Ranks.close

    def closing(self: Ranks) -> None:
        sent.append(self.sent)
        close(self)

    Ranks.close = closing  # type: ignore[method-assign]
    each = len(z) // size
    score_shard([z[rank * each : (rank + 1) * each]], degrees=(1,))
    out.with_suffix(f".{rank}").write_text(str(sent[0]))
    dist.destroy_process_group()
