"""Converted OpenVINO models on disk: one folder a model, complete or not there at all.

A folder is written in a scratch folder and renamed, so that processes that convert the same model
at the same time end with one whole folder; the others keep what they converted in memory.
"""

from __future__ import annotations

import hashlib
import mmap
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...scratch import scratch_folder
from ..weights import Notify, first_line
from ..weights.cache import cache_folder

_MODEL, _WEIGHTS, _CHECKSUM = "model.xml", "model.bin", "sha256"


def model_folder(key: str) -> Path:
    """Where the model of a key is cached."""
    return cache_folder() / "openvino" / key


@dataclass(frozen=True)
class ConvertedModel:
    """An OpenVINO model.

    weights: the mapped file of its weights, which must live as long as the model; None where they
        lie in memory.
    """

    model: Any
    weights: mmap.mmap | None = None

    def forget_weights(self) -> None:
        """Take mapped weights out of memory; what is needed of them later is read again.

        A compiled model has its own copy of nearly all of them, in another order.
        """
        if sys.platform == "linux" and self.weights is not None:
            self.weights.madvise(mmap.MADV_DONTNEED)


def load_model(core: Any, key: str, notify: Notify | None) -> ConvertedModel | None:
    """The cached model of a key; None without a whole one.

    core: an `openvino.Core`.
    notify: told of a damaged model, which is removed.
    """
    folder = model_folder(key)
    if not folder.is_dir():
        return None
    try:
        expected = (folder / _CHECKSUM).read_text(encoding="ascii")
        if expected == _checksum(folder):
            return _read(core, folder)
        reason = "its checksum differs"
    except (OSError, RuntimeError, ValueError) as error:
        reason = first_line(error)
    if notify is not None:
        notify(f"the cached model {folder} is damaged ({reason}); it is made again")
    shutil.rmtree(folder, ignore_errors=True)
    return None


def store_model(model: Any, key: str, notify: Notify | None) -> None:
    """Write a model under its key, unless another process has just done so.

    A disk that is full or read-only costs another conversion next time, and `notify` is told.
    """
    import openvino

    folder = model_folder(key)
    try:
        with scratch_folder(folder.parent) as scratch:
            whole = Path(scratch, key)
            whole.mkdir()
            # By default the weights would be rounded to fp16.
            openvino.save_model(model, whole / _MODEL, compress_to_fp16=False)
            (whole / _CHECKSUM).write_text(_checksum(whole), encoding="ascii")
            if not folder.exists():
                whole.rename(folder)
    except (OSError, RuntimeError) as error:
        if not folder.exists() and notify is not None:
            notify(f"could not keep the converted model in {folder}: {first_line(error)}")


def _read(core: Any, folder: Path) -> ConvertedModel:
    """The model of a folder."""
    import openvino

    with (folder / _WEIGHTS).open("rb") as file:
        # OpenVINO wants memory that can be written: what it would change stays in this process.
        weights = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    shared = openvino.Tensor(np.frombuffer(weights, dtype=np.uint8), shared_memory=True)
    text = (folder / _MODEL).read_text(encoding="utf-8")
    return ConvertedModel(core.read_model(text, shared), weights)


def _checksum(folder: Path) -> str:
    digest = hashlib.sha256()
    for name in (_MODEL, _WEIGHTS):
        with (folder / name).open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()
