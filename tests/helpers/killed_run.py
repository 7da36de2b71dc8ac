"""What tests run in processes that they kill: importable from a process of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from tiny import TINY

from musc_fast import MuSc
from musc_fast.runs.watch import WatchSettings, watching
from musc_fast.scoring import checkpoint, score_batch


def score(paths: list[Path], folder: Path, out: Path) -> None:
    """Score token files with a checkpoint in small parts; `out` appears when all is done."""
    torch.set_num_threads(1)
    checkpoint._PART = 4
    scores = score_batch(paths, prefix_tokens=1, checkpoint=folder)
    with out.with_suffix(".tmp").open("wb") as file:
        np.save(file, scores.patch_scores.numpy())
    out.with_suffix(".tmp").rename(out)


def watch(folder: Path, bank: Path, weights: Path, settings: WatchSettings) -> None:
    """Score what is in a folder, as `musc-fast watch --once`; the last file made is `done`."""
    torch.set_num_threads(1)
    musc = MuSc(TINY, weights=weights, image_size=96)
    with watching(musc, folder, bank, bank.with_name("scores.csv"), settings) as watched:
        for _ in watched.score(watched.look(settled=True), last=True):
            pass
    bank.with_name("done").touch()
