"""Runs that may be killed: finished parts kept in a folder, each written whole or not at all."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..files import replacing

_VERSION = b"2"  # of the files; part of their digests
_DIGEST = 16  # bytes at the end of a part
_PART = 256  # images whose scores are kept together; fewer are scored again after a kill


def parts_of(images: int, checkpointed: bool) -> list[tuple[int, int]]:
    """The parts of a run as (first, last): one, or several that a checkpoint keeps one by one.

    Two images of different parts are searched twice, from each side, so parts are not small.
    """
    count = max(1, images // _PART) if checkpointed else 1
    return [(images * k // count, images * (k + 1) // count) for k in range(count)]


def checkpoint_folder(folder: str | os.PathLike[str]) -> Path:
    """The folder as a path, made where it is missing; InputError where that cannot be."""
    try:
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, TypeError, ValueError) as error:
        raise InputError(f"checkpoint: {folder!r} cannot be a folder: {error}") from None
    return path


class Checkpoint:
    """Finished parts of a run in a folder, each written completely or not at all.

    layers: the tokens of the run, which are told from those of other runs by their digests.
    settings: what else decides the scores, as JSON can hold it.

    run.json and every part carry a digest, of the run and of the part's place too. A part that was
    damaged or exchanged counts as absent and is scored again; a damaged run.json is written anew.

    Raises InputError where the folder holds parts of another run.
    """

    def __init__(
        self, folder: str | os.PathLike[str], layers: Sequence[Tensor], settings: dict[str, Any]
    ) -> None:
        self.folder = checkpoint_folder(folder)
        run = {**settings, "tokens": [digest(layer) for layer in layers]}
        key = json.dumps(run, sort_keys=True).encode()
        self._key = key
        file = self.folder / "run.json"
        if not file.exists() and any(self.folder.glob("part-*.npy")):
            raise InputError(f"checkpoint: {self.folder} holds parts but no run.json")
        found = _read_run(file)
        if found is not None and found != json.loads(key):
            raise InputError(
                f"checkpoint: {self.folder} belongs to a run with other tokens or settings; name "
                "another folder, or remove that one"
            )
        if found is None:
            sealed = {"run": run, "digest": _seal(key)}
            with replacing(file) as temporary:
                temporary.write_text(json.dumps(sealed), encoding="utf-8")

    def _file(self, pass_index: int, part: tuple[int, int]) -> Path:
        return self.folder / f"part-{pass_index:03}-{part[0]}-{part[1]}.npy"

    def _digest(self, file: Path, data: bytes) -> bytes:
        found = hashlib.blake2b(self._key + _VERSION, digest_size=_DIGEST)
        found.update(file.name.encode() + b"\n" + data)
        return found.digest()

    def _read(self, pass_index: int, part: tuple[int, int]) -> Tensor | None:
        """The scores of a part; None where there are none that were written whole by this run."""
        file = self._file(pass_index, part)
        try:
            stored = file.read_bytes()
        except OSError:
            return None
        data = stored[:-_DIGEST]
        if stored[len(data) :] != self._digest(file, data):
            return None
        return torch.from_numpy(np.load(io.BytesIO(data), allow_pickle=False))

    def has(self, pass_index: int, part: tuple[int, int]) -> bool:
        """Whether the scores of a part are there, undamaged."""
        return self._read(pass_index, part) is not None

    def load(self, pass_index: int, part: tuple[int, int]) -> Tensor:
        """The scores of a finished part, [last - first, P] float32."""
        scores = self._read(pass_index, part)
        if scores is None:
            file = self._file(pass_index, part)
            raise InputError(f"checkpoint: {file} was changed or removed during the run; run again")
        return scores

    def save(self, pass_index: int, part: tuple[int, int], scores: Tensor) -> None:
        """Write the scores of a part [last - first, P]."""
        file, data = self._file(pass_index, part), io.BytesIO()
        np.save(data, scores.cpu().numpy())
        with replacing(file) as temporary, temporary.open("wb") as opened:
            opened.write(data.getvalue() + self._digest(file, data.getvalue()))
            opened.flush()
            os.fsync(opened.fileno())


def _seal(key: bytes) -> str:
    return hashlib.blake2b(key + _VERSION, digest_size=_DIGEST).hexdigest()


def _read_run(file: Path) -> Any:
    """The run that run.json tells of; None where the file is missing or damaged.

    Raises InputError where the file cannot be read, or is whole and of something else.
    """
    try:
        stored = json.loads(file.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"checkpoint: {file} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        return None
    run, seal = (stored.get(key) if isinstance(stored, dict) else None for key in ("run", "digest"))
    if run is None and seal is None:
        raise InputError(
            f"checkpoint: {file} is of an older version, or not of a checkpoint; name another "
            "folder, or remove that one"
        )
    return run if seal == _seal(json.dumps(run, sort_keys=True).encode()) else None


def digest(layer: Tensor) -> str:
    """The digest of a layer's dtype, shape and values, 32 hex digits."""
    digest = hashlib.blake2b(f"{layer.dtype} {list(layer.shape)}".encode(), digest_size=16)
    for image in layer:
        digest.update(image.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
