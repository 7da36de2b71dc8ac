"""What test_large.py runs in processes that it kills: importable from a process of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from musc_fast import large
from musc_fast.scoring import score_batch


def score(paths: list[Path], kept: Path, out: Path) -> None:
    """Score token files with a checkpoint in small parts; `out` appears when all is done."""
    torch.set_num_threads(1)
    large._PART = 4
    scores = score_batch(paths, prefix_tokens=1, checkpoint=kept)
    with out.with_suffix(".tmp").open("wb") as file:
        np.save(file, scores.patch_scores.numpy())
    out.with_suffix(".tmp").rename(out)
