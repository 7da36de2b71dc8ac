"""Runs that may be killed: finished parts kept in a folder, each written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..files import replacing

_PART = 256  # images whose scores are kept together; fewer are scored again after a kill


def scratch_folder(parent: Path | None) -> AbstractContextManager[str]:
    """A folder for scratch files, removed afterwards; in `parent` or the system's place."""
    if parent is None:
        return tempfile.TemporaryDirectory(prefix="musc_fast-")
    parent.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(prefix=".scratch-", dir=parent)


def parts_of(images: int, checkpointed: bool) -> list[tuple[int, int]]:
    """The parts of a run as (first, last): one, or several that a checkpoint keeps one by one.

    Two images of different parts are searched twice, from each side, so parts are not small.
    """
    count = max(1, images // _PART) if checkpointed else 1
    return [(images * k // count, images * (k + 1) // count) for k in range(count)]


class Checkpoint:
    """Finished parts of a run in a folder, each written completely or not at all.

    layers: the tokens of the run, which are told from those of other runs by their digests.
    settings: what else decides the scores, as JSON can hold it.

    Raises InputError where the folder holds parts of another run.
    """

    def __init__(
        self, folder: str | os.PathLike[str], layers: Sequence[Tensor], settings: dict[str, Any]
    ) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        key = json.dumps({**settings, "tokens": [digest(layer) for layer in layers]})
        file = self.folder / "run.json"
        if not file.exists():
            if any(self.folder.glob("part-*.npy")):
                raise InputError(f"checkpoint: {self.folder} holds parts but no run.json")
            with replacing(file) as temporary:
                temporary.write_text(key, encoding="utf-8")
        elif file.read_text(encoding="utf-8") != key:
            raise InputError(
                f"checkpoint: {self.folder} belongs to a run with other tokens or settings; name "
                "another folder, or remove that one"
            )

    def _file(self, pass_index: int, part: tuple[int, int]) -> Path:
        return self.folder / f"part-{pass_index:03}-{part[0]}-{part[1]}.npy"

    def has(self, pass_index: int, part: tuple[int, int]) -> bool:
        """Whether the scores of a part are there."""
        return self._file(pass_index, part).is_file()

    def load(self, pass_index: int, part: tuple[int, int]) -> Tensor:
        """The scores of a finished part, [last - first, P] float32."""
        return torch.from_numpy(np.load(self._file(pass_index, part), allow_pickle=False))

    def save(self, pass_index: int, part: tuple[int, int], scores: Tensor) -> None:
        """Write the scores of a part [last - first, P]."""
        with replacing(self._file(pass_index, part)) as temporary, temporary.open("wb") as file:
            np.save(file, scores.cpu().numpy())
            file.flush()
            os.fsync(file.fileno())


def digest(layer: Tensor) -> str:
    """The digest of a layer's dtype, shape and values, 32 hex digits."""
    digest = hashlib.blake2b(f"{layer.dtype} {list(layer.shape)}".encode(), digest_size=16)
    for image in layer:
        digest.update(image.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
