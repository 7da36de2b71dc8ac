"""A small labelled folder for anomalib's Engine, and the model on a tiny backbone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tiny import DEFECTS, TINY, product, product_folder, tiny_weights


def parts(root: Path) -> Path:
    """root/train and root/good with good products, root/bad with three defects, root/masks."""
    product_folder(root / "train", 8, 99)
    (root / "good").mkdir()
    for k in range(5):
        Image.fromarray(product(20 + k)).save(root / "good" / f"good{k}.png")
    (root / "bad").mkdir()
    (root / "masks").mkdir()
    for k in range(3):
        kind = 1 + k % 2
        Image.fromarray(product(50 + k, kind)).save(root / "bad" / f"bad{k}.png")
        top, left, _ = DEFECTS[kind]
        mask = np.zeros((96, 120), np.uint8)
        mask[top : top + 24, left : left + 24] = 255
        Image.fromarray(mask).save(root / "masks" / f"bad{k}.png")
    return root


def folder_of(root: Path, **options: Any) -> Any:
    """anomalib's data module for `parts`, its validation images those of the test."""
    from anomalib.data import Folder

    return Folder(
        name="parts",
        root=root,
        normal_dir="train",
        normal_test_dir="good",
        abnormal_dir="bad",
        mask_dir="masks",
        train_batch_size=3,
        eval_batch_size=3,
        num_workers=0,
        **{"val_split_mode": "same_as_test", **options},
    )


def tiny_model(root: Path, **options: Any) -> Any:
    """The anomalib model on a tiny ViT with random weights."""
    from musc_fast.anomalib import MuSc

    weights = str(tiny_weights(root))
    return MuSc(TINY, options={"weights": weights, "engine": "torch"}, **options)


def engine_in(root: Path) -> Any:
    from anomalib.engine import Engine

    return Engine(accelerator="cpu", default_root_dir=root, enable_progress_bar=False)
