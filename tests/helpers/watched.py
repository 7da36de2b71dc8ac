"""Watching a folder once, and looking at its record and bank."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import torch
from tiny import TINY

from musc_fast import MuSc, ReferenceBank
from musc_fast.runs.watch import WatchSettings, watching


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8", errors="surrogateescape") as opened:
        return list(csv.DictReader(opened))


def untimed(file: Path) -> list[dict[str, str]]:
    return [{**row, "time": ""} for row in rows(file)]


def run(
    musc: MuSc, folder: Path, bank: Path, settings: WatchSettings, *, last: bool = True
) -> list[str]:
    with watching(musc, folder, bank, bank.with_name("scores.csv"), settings) as watched:
        rows = list(watched.score(watched.look(settled=True), last=last))
        paths = [Path(row.path) for row in rows]
        return [str(p.relative_to(folder)) if folder in p.parents else str(p) for p in paths]


def command_line(folder: Path, bank: Path, weights: Path) -> list[str]:
    line = ["watch", folder, "--bank", bank, "--backbone", TINY, "--weights", weights]
    return [*map(str, line), "--size", "96"]


def same_bank(first: Path, second: Path) -> bool:
    one, two = ReferenceBank.load(first), ReferenceBank.load(second)
    return (
        one.settings() == two.settings()
        and one.entries == two.entries
        and one.added == two.added
        and all(torch.equal(a, b) for a, b in zip(one.tokens(), two.tokens(), strict=True))
    )


def aged(paths: list[Path]) -> list[Path]:
    """The files, a second apart, so that their order is theirs."""
    for k, path in enumerate(paths):
        os.utime(path, (1_000_000 + k, 1_000_000 + k))
    return paths
